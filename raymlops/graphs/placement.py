"""Decides where each node runs and which chains become one model, and why. Decides only; places nothing."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from raymlops.graphs.plan import Plan, Step
from raymlops.specs.graph_nodes import PlacedNode

Place = Literal["fused", "separate"]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The cost of a leaf: milliseconds for one row in this process, and bytes of memory."""

    milliseconds: float
    bytes_held: int = 0


@dataclasses.dataclass(frozen=True)
class Limits:
    """Thresholds of `auto`."""

    hop_ms: float = 3.0
    """A call to another replica and back, as measured on two cores."""
    hops_worth: float = 5.0
    """A node slower than so many hops gains more from its own replicas than the hop costs."""
    fused_bytes: int = 1_000_000_000
    """Memory of all fused nodes together in each ingress replica, at most."""


@dataclasses.dataclass(frozen=True)
class Decision:
    place: Place
    reason: str


def decide(
    plan: Plan, measured: Mapping[str, Measurement] | None = None, limits: Limits | None = None
) -> dict[str, Decision]:
    """A decision for every leaf, by path. The spec has precedence; `auto` considers resources, size and time, in that
    order."""
    measured, limits = measured or {}, limits or Limits()
    decisions: dict[str, Decision] = {}
    held = 0
    leaves = sorted(
        plan.leaves(), key=lambda leaf: measured[leaf[0]].bytes_held if leaf[0] in measured else 0
    )
    for (
        path,
        step,
    ) in leaves:  # the smallest first, so that one large model does not displace many small ones
        decision = _decide_leaf(step, measured.get(path), limits, held)
        if decision.place == "fused" and path in measured:
            held += measured[path].bytes_held
        decisions[path] = decision
    return {path: decisions[path] for path, _ in plan.leaves()}


def _decide_leaf(step: Step, measured: Measurement | None, limits: Limits, held: int) -> Decision:
    node: PlacedNode = step.node
    if node.placement != "auto":
        return Decision(node.placement, "the spec says so")
    if node.resources is not None:
        asked = ", ".join(
            f"{key} {value}" for key, value in node.resources.model_dump(exclude_unset=True).items()
        )
        return Decision("separate", f"it asks for resources of its own ({asked or 'by naming them'})")
    if measured is None:
        return Decision("fused", "nothing is measured, and it asks for no resources")
    if held + measured.bytes_held > limits.fused_bytes:
        return Decision(
            "separate",
            f"its {measured.bytes_held / 1e6:.0f} MB do not fit beside the "
            f"{held / 1e6:.0f} MB of other fused nodes "
            f"(limit {limits.fused_bytes / 1e6:.0f} MB)",
        )
    line = limits.hop_ms * limits.hops_worth
    if measured.milliseconds > line:
        return Decision(
            "separate",
            f"a row takes {measured.milliseconds:.3g} ms, over {limits.hops_worth:g} hops of "
            f"{limits.hop_ms:g} ms",
        )
    return Decision(
        "fused", f"a row takes {measured.milliseconds:.3g} ms, a hop would add {limits.hop_ms:g} ms"
    )


def find_chains(
    plan: Plan, decisions: Mapping[str, Decision], prefix: str = "", apart: Collection[str] = ()
) -> list[tuple[str, ...]]:
    """Sequences of fused ONNX nodes of one graph, each reading the one before it, that can be merged into one model.

    A chain never includes a node with a timeout, a fallback, a ragged output or a caller, since these concern a
    single node; nor those whose paths are in `apart`.
    """
    if not plan.spec.merge:
        return []
    chains: list[list[str]] = []
    for name, step in plan.steps.items():
        if prefix + name in apart or not _mergeable(plan, step, decisions.get(prefix + name)):
            continue
        chain = next((found for found in chains if _continues(plan, chains, found, step)), None)
        if chain is None:
            chains.append([name])
        else:
            chain.append(name)
    return [tuple(chain) for chain in chains if len(chain) > 1]


def _mergeable(plan: Plan, step: Step, decision: Decision | None) -> bool:
    node = step.node
    return (
        step.kind.is_mergeable(node)
        and decision is not None
        and decision.place == "fused"
        and step.name not in plan.branches
        and node.timeout_s is None
        and node.fallback is None
    )


def _continues(plan: Plan, chains: Sequence[Sequence[str]], chain: Sequence[str], step: Step) -> bool:
    """True if the node reads the chain's last one, and merging them makes no cycle."""
    if chain[-1] not in step.after:
        return False
    groups = {name: found[0] for found in chains for name in found} | {step.name: chain[0]}
    waits: dict[str, set[str]] = {}
    for name, other in plan.steps.items():
        group = groups.get(name, name)
        waits.setdefault(group, set()).update({groups.get(read, read) for read in other.after} - {group})
    ready: set[str] = set()
    while True:
        fresh = {group for group, reads in waits.items() if group not in ready and reads <= ready}
        if not fresh:
            return len(ready) == len(waits)
        ready |= fresh
