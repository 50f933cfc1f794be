"""The first case that holds for a row decides which node answers it."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import SpecError
from raymlops.graphs.execution import Request, Rows, call_by_rows
from raymlops.graphs.node_kind import Built, NodeKind, Parts
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import check_one_value_per_row, join_answers
from raymlops.specs.graph_nodes import SwitchNode, parse_condition
from raymlops.tensors import Array, Batch, count_rows, list_texts


class Switch(NodeKind[SwitchNode]):
    spec = SwitchNode
    rows_independent = True

    def reads(self, node: SwitchNode) -> Sequence[str]:
        return [parse_condition(case.when)[0] for case in node.cases]

    def calls(self, node: SwitchNode) -> Sequence[str]:
        return [*(case.then for case in node.cases), node.otherwise]

    def outputs(
        self, node: SwitchNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        outputs = join_answers(answers)
        for case, (_, port) in zip(node.cases, reads, strict=True):
            check_condition(case.when, port)
        return outputs

    def build(self, parts: Parts) -> Built:
        node: SwitchNode = parts.step.node
        branches = parts.branches
        sources = [str(reference) for reference in parts.step.reads]
        cases = [
            (source, *parse_condition(case.when)[1:])
            for source, case in zip(sources, node.cases, strict=True)
        ]
        names = self.calls(node)

        async def run(batch: Batch, request: Request) -> Batch:
            rows = count_rows(batch)
            left = np.ones(rows, dtype=bool)
            chosen = np.full(rows, len(cases))
            for i, (source, operation, value) in enumerate(cases):
                held = find_held(batch[source], operation, value) & left
                chosen[held] = i
                left &= ~held
                if not left.any():
                    break
            index: dict[str, list[Rows]] = {}
            for i in np.unique(chosen).tolist():
                index.setdefault(names[i], []).append(np.flatnonzero(chosen == i))
            chunks = [(branches[name], np.concatenate(found)) for name, found in index.items()]
            return await call_by_rows(batch, request, chunks or [(branches[node.otherwise], chosen)], rows)

        return Built(run)

    def label_call(self, node: SwitchNode, called: str) -> str:
        held = [case.when for case in node.cases if case.then == called]
        return " or ".join([*held, *(["otherwise"] if called == node.otherwise else [])])


def check_condition(text: str, port: Port) -> None:
    """Raises SpecError if a condition does not apply to a tensor."""
    _, comparison, value = parse_condition(text)
    check_one_value_per_row(text, port)
    expected: tuple[type, ...] = (int, float)
    if port.spec.datatype in ("BYTES", "BOOL"):
        expected = (str,) if port.spec.datatype == "BYTES" else (bool,)
        if comparison not in ("==", "!=", "in", "not in"):
            raise SpecError(f"{text!r}: {comparison} does not apply to {port}")
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, expected) or (isinstance(item, bool) and bool not in expected):
            raise SpecError(f"{text!r}: {item!r} is not a value of {port}")


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda values, known: _is_among(values, known),
    "not in": lambda values, known: ~_is_among(values, known),
}


def _is_among(values: Array, known: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """By `==`: `np.isin` would compare an FP32 0.1 with the FP64 one, which differs."""
    found = np.zeros(values.shape, dtype=bool)
    for one in known:
        found |= values == one
    return found


def find_held(values: Array, comparison: str, value: Any) -> npt.NDArray[np.bool_]:
    """Rows for which a condition holds; one value per row."""
    if values.dtype == object:
        texts = list_texts(values)
        known = value if isinstance(value, list) else [value]
        held = np.fromiter((text in known for text in texts), dtype=bool, count=len(texts))
        return held if comparison in ("==", "in") else ~held
    return np.asarray(COMPARISONS[comparison](values, value), dtype=bool).reshape(len(values))
