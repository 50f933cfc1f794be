"""Nodes from the cheapest to the most expensive; rows with low confidence go on to the next."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from raymlops.errors import SpecError, unknown_name
from raymlops.graphs.execution import Request, Rows, put_rows
from raymlops.graphs.node_kind import Built, NodeKind, Parts
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import FLOATS, join_answers
from raymlops.specs.graph_nodes import CascadeNode
from raymlops.tensors import Array, Batch


class Cascade(NodeKind[CascadeNode]):
    spec = CascadeNode
    rows_independent = True

    def calls(self, node: CascadeNode) -> Sequence[str]:
        return node.steps

    def outputs(
        self, node: CascadeNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        outputs = join_answers(answers)
        ports = {port.spec.name: port for port in outputs}
        if node.confidence not in ports:
            raise SpecError(unknown_name("tensor under confidence:", node.confidence, ports))
        confidence = ports[node.confidence]
        if confidence.ragged or confidence.spec.datatype not in FLOATS:
            raise SpecError(f"confidence {confidence} is not one number per row")
        return outputs

    def build(self, parts: Parts) -> Built:
        node: CascadeNode = parts.step.node
        first, *others = [parts.branches[name] for name in node.steps]
        thresholds = node.threshold if isinstance(node.threshold, list) else [node.threshold] * len(others)

        async def run(batch: Batch, request: Request) -> Batch:
            whole = answer = await first.call(batch, request)
            index: Rows | None = None
            for branch, threshold in zip(others, thresholds, strict=True):
                unsure = find_unconfident_rows(answer[node.confidence], node.measure, threshold)
                if not len(unsure):
                    break
                if index is None and len(unsure) == len(answer[node.confidence]):
                    whole = answer = await branch.call(batch, request)
                    continue
                if index is None:
                    whole = {name: values.copy() for name, values in answer.items()}
                index = unsure if index is None else index[unsure]
                answer = await branch.call(batch, request, index)
                put_rows(whole, index, answer)
            return whole

        return Built(run)

    def describe(self, node: CascadeNode) -> str:
        return f"{node.measure} {node.confidence}"

    def label_call(self, node: CascadeNode, called: str) -> str:
        index = node.steps.index(called)
        if index == 0:
            return "first"
        level = node.threshold[index - 1] if isinstance(node.threshold, list) else node.threshold
        return f"below {level:g}"


def _largest(rows: Array) -> Array:
    return np.asarray(rows.max(axis=1))


def _binary(rows: Array) -> Array:
    return np.asarray(np.maximum(rows, 1 - rows).max(axis=1))


def _margin(rows: Array) -> Array:
    """The largest value less the second largest; for a single value, twice its distance from one half, as for two
    classes."""
    if rows.shape[1] == 1:
        return np.asarray(np.abs(2 * rows[:, 0] - 1))
    top = np.partition(rows, -2, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


MEASURES: dict[str, Callable[[Array], Array]] = {"max": _largest, "binary": _binary, "margin": _margin}


def find_unconfident_rows(values: Array, measure: str, threshold: float) -> npt.NDArray[np.intp]:
    """Rows whose confidence does not reach the threshold; NaN does not reach it."""
    if not len(values):
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(~(MEASURES[measure](values.reshape(len(values), -1)) >= threshold))
