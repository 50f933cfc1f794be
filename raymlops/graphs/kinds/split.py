"""Shares of the requests, or of the rows, for each of several nodes; a key always goes to the same one."""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from raymlops.errors import SpecError, unknown_name
from raymlops.graphs.execution import Request, Rows, call_by_rows
from raymlops.graphs.node_kind import Built, NodeKind, Parts, Weights
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import check_one_value_per_row, join_answers
from raymlops.specs.graph_nodes import SplitNode
from raymlops.tensors import Array, Batch, count_rows, list_texts

_NONE: Rows = np.empty(0, dtype=np.intp)


class Split(NodeKind[SplitNode]):
    spec = SplitNode

    def reads(self, node: SplitNode) -> Sequence[str]:
        return [node.by] if node.by else []

    def calls(self, node: SplitNode) -> Sequence[str]:
        return list(node.weights)

    def outputs(
        self, node: SplitNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        outputs = join_answers(answers)
        for reference, port in reads:
            check_one_value_per_row(str(reference), port)
        return outputs

    def explain_dependence(self, node: SplitNode) -> str:
        return "chooses by caller"

    def build(self, parts: Parts) -> Built:
        """Weights are read at every request, so that they can change while the graph runs."""
        node: SplitNode = parts.step.node
        branches, weights = parts.branches, Weights(dict(node.weights))
        by = str(parts.step.reads[0]) if node.by else None
        choose = random.Random()  # noqa: S311 (shares of traffic, not secrets)

        async def run(batch: Batch, request: Request) -> Batch:
            shares = weights.now
            if by is None:
                if request.key is not None:
                    name = choose_branch(request.key, shares, node.salt)
                else:
                    name = choose.choices(list(shares), list(shares.values()))[0]
                return await branches[name].call(batch, request)
            chosen = choose_branches(batch[by], shares, node.salt)
            chunks = [(branches[name], index) for name, index in chosen.items()]
            if not chunks:
                chunks = [(branches[max(shares, key=shares.__getitem__)], _NONE)]
            return await call_by_rows(batch, request, chunks, count_rows(batch))

        return Built(run, weights=weights)

    def describe(self, node: SplitNode) -> str:
        return f"by {node.by or 'the request key'}"

    def label_call(self, node: SplitNode, called: str) -> str:
        return f"{node.weights[called] / sum(node.weights.values()):.0%}"


def choose_branch(key: str, weights: Mapping[str, float], salt: str = "") -> str:
    """The branch of a key, always the same one; when weights change, only keys of branches that lose share move.

    Weighted rendezvous hashing, after Thaler and Ravishankar, and Schindelhauer and Schomaker for the weights.
    """
    best, least = "", math.inf
    for branch, weight in weights.items():
        if weight > 0:
            text = f"{salt}\0{branch}\0{key}".encode(errors="surrogatepass")  # a key may be no valid text
            digest = hashlib.blake2b(text, digest_size=8).digest()
            score = -math.log((int.from_bytes(digest) + 1) / (2**64 + 1)) / weight
            if score < least:
                best, least = branch, score
    return best


def choose_branches(
    keys: Array, weights: Mapping[str, float], salt: str = ""
) -> dict[str, npt.NDArray[np.intp]]:
    """Branch -> its rows, by one key per row."""
    texts = list_texts(keys)
    known = {text: choose_branch(text, weights, salt) for text in set(texts)}
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(known[text], []).append(row)
    return {branch: np.asarray(chosen, dtype=np.intp) for branch, chosen in rows.items()}


def change_weights(split: str, present: Mapping[str, float], named: Mapping[str, float]) -> dict[str, float]:
    """The weights of all branches of a split after the named ones are set. Raises SpecError."""
    for branch, weight in named.items():
        if branch not in present:
            raise SpecError(unknown_name(f"branch of split {split!r}:", branch, present))
        if not 0 <= weight < math.inf:
            raise SpecError(f"Weight {weight} of branch {branch!r} of split {split!r} is not 0 or more")
    changed = {**present, **named}
    if not 0 < sum(changed.values()) < math.inf:
        told = ", ".join(f"{branch}={weight:g}" for branch, weight in changed.items())
        raise SpecError(f"Weights of split {split!r} would sum to 0 ({told}); at least one must be above 0")
    return changed
