"""Why the rows of a graph's batch may depend on each other. Uses the plan; runs nothing."""

from collections.abc import Mapping

from raymlops.graphs.plan import Plan, Port


def find_dependence(plan: Plan, leaves: Mapping[str, str], prefix: str = "") -> str:
    """The first reason, with the node's path; empty if every row is answered independently.

    `leaves` has the reason of each model and Python node that couples rows, by path.
    """
    for port in (*plan.inputs, *plan.output_ports):
        if port.ragged:
            return f"{_describe(port)} has its own number of elements in each row"
    for name, step in plan.steps.items():
        path, node = prefix + name, step.node
        if node.fallback is not None:
            return f"node {path!r} has a fallback, which answers for all rows of a run"
        if (
            reason := step.kind.explain_dependence(node)
        ) != "":  # a user's kind may return nothing by mistake
            return f"node {path!r} {reason or 'is of a kind that explains nothing'}"
        if leaves.get(path):
            return f"node {path!r}: {leaves[path]}"
        if step.inner is not None and (reason := find_dependence(step.inner, leaves, f"{path}/")):
            return reason
    return ""


def _describe(port: Port) -> str:
    return f"tensor {port.spec.name!r}"
