"""A plan as boxes and arrows, and these as Mermaid text. Shows decisions and measurements; decides nothing."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from raymlops.graphs.placement import Decision
from raymlops.graphs.plan import Plan, Port, Step
from raymlops.specs.graph_nodes import INPUTS

OUTPUTS = "outputs"


@dataclasses.dataclass(frozen=True)
class Box:
    id: str
    lines: tuple[str, ...]
    look: str
    """`edge`, `fused`, `separate`, `combine` or `route`."""
    group: str = ""
    """Path of the inner graph that it belongs to."""


@dataclasses.dataclass(frozen=True)
class Arrow:
    start: str
    end: str
    labels: tuple[str, ...] = ()
    dashed: bool = False
    """True for calls that do not bring the answer: a mirror, a fallback."""


@dataclasses.dataclass(frozen=True)
class Sketch:
    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def sketch(
    plan: Plan,
    decisions: Mapping[str, Decision] | None = None,
    milliseconds: Mapping[str, float] | None = None,
    chains: Iterable[Sequence[str]] = (),
) -> Sketch:
    """Boxes and arrows of a graph and its inner graphs; times and chains are by node path."""
    merged = {path: "+".join(chain) for chain in chains for path in chain}
    artist = _Artist(decisions or {}, milliseconds or {}, merged)
    artist.boxes.append(Box(INPUTS, (INPUTS, *(str(port) for port in plan.inputs)), "edge"))
    answered = artist.draw(plan, "", {port.spec.name: INPUTS for port in plan.inputs})
    lines = [f"{port}" for port in plan.output_ports]
    artist.boxes.append(Box(OUTPUTS, (OUTPUTS, *lines), "edge"))
    for name, reference in plan.outputs:
        artist.connect(answered[name], OUTPUTS, _type_of(plan.port(reference)))
    return Sketch(plan.spec.name, tuple(artist.boxes), tuple(artist.arrows.values()))


class _Artist:
    def __init__(
        self, decisions: Mapping[str, Decision], milliseconds: Mapping[str, float], merged: Mapping[str, str]
    ) -> None:
        self._decisions = decisions
        self._milliseconds = milliseconds
        self._merged = merged
        self.boxes: list[Box] = []
        self.arrows: dict[tuple[str, str, bool], Arrow] = {}

    def connect(self, start: str, end: str, label: str, dashed: bool = False) -> None:
        known = self.arrows.get((start, end, dashed), Arrow(start, end, (), dashed))
        if label not in known.labels:
            known = dataclasses.replace(known, labels=(*known.labels, label))
        self.arrows[start, end, dashed] = known

    def draw(self, plan: Plan, prefix: str, sources: Mapping[str, str]) -> dict[str, str]:
        """Draw the steps; `sources` maps each input to its box. Returns the box of each output."""
        gives = {f"{INPUTS}.{name}": box for name, box in sources.items()}
        for name, step in plan.steps.items():
            path = prefix + name
            own = [(key, str(reference)) for key, reference in step.own_needs]
            if step.inner is not None:
                inside = {key: gives[reference] for key, reference in own}
                answered = self.draw(step.inner, f"{path}/", inside)
            else:
                self.boxes.append(self._box(plan.spec.nodes[name].kind, step, path, prefix.rstrip("/")))
                for key, reference in own:
                    self.connect(gives[reference], path, _type_of(_port(plan, key, reference)))
                answered = {port.spec.name: path for port in step.outputs}
            for called in step.branches:
                answer = gives[f"{called}.{plan.steps[called].outputs[0].spec.name}"]
                target = path if step.inner is None else next(iter(answered.values()))
                self.connect(answer, target, *_call_of(step, called))
            gives |= {f"{name}.{tensor}": box for tensor, box in answered.items()}
        return {name: gives[str(reference)] for name, reference in plan.outputs}

    def _box(self, kind: str, step: Step, path: str, group: str) -> Box:
        detail = step.kind.describe(step.node)
        lines = [step.name, f"{kind} · {detail}" if detail else kind]
        look = "route" if step.branches else "combine"
        decision = self._decisions.get(path)
        if step.kind.is_leaf:
            look = decision.place if decision else "fused"
            if path in self._merged:
                lines.append(f"merged: {self._merged[path]}")
            elif decision:
                lines.append(f"{decision.place}: {decision.reason}")
        if path in self._milliseconds and not lines[-1].startswith("fused: a row takes"):
            lines.append(f"{self._milliseconds[path]:.3g} ms")
        return Box(path, tuple(lines), look, group)


def _port(plan: Plan, key: str, reference: str) -> Port:
    node, _, tensor = reference.partition(".")
    ports = plan.inputs if node == INPUTS else plan.steps[node].outputs
    return next(port for port in ports if port.spec.name == tensor)


def _type_of(port: Port) -> str:
    return str(port)


def _call_of(step: Step, called: str) -> tuple[str, bool]:
    """The label of the arrow from a branch, and whether it is dashed."""
    if called == step.node.fallback:
        return "fallback", True
    return step.kind.label_call(step.node, called), called not in step.awaited


CLASSES = {
    "edge": ("#e8f5e9", "#2e7d32"),
    "fused": ("#e3f2fd", "#1565c0"),
    "separate": ("#fff3e0", "#e65100"),
    "combine": ("#f5f5f5", "#616161"),
    "route": ("#f3e5f5", "#6a1b9a"),
}
"""Look -> fill and stroke."""


def shorten_list(texts: Sequence[str], most: int) -> list[str]:
    """At most so many of the texts; the last one says how many more there are."""
    if len(texts) <= most:
        return list(texts)
    return [*texts[: most - 1], f"and {len(texts) - most + 1} more"]


def to_mermaid(picture: Sketch) -> str:
    """Mermaid flowchart text, as GitHub and MLflow's notes render it."""
    names = {box.id: f"n{i}" for i, box in enumerate(picture.boxes)}
    lines = ["---", f"title: {picture.title}", "---", "flowchart LR"]
    for group in dict.fromkeys(box.group for box in picture.boxes):
        indent = "    "
        if group:
            lines.append(f'    subgraph g_{_identify(group)}["{_escape(group)}"]')
            indent = "        "
        for box in picture.boxes:
            if box.group == group:
                text = "<br/>".join(_escape(line) for line in box.lines)
                lines.append(f'{indent}{names[box.id]}["{text}"]:::{box.look}')
        if group:
            lines.append("    end")
    for arrow in picture.arrows:
        line = "-.->" if arrow.dashed else "-->"
        label = "<br/>".join(_escape(text) for text in arrow.labels)
        lines.append(f'    {names[arrow.start]} {line}|"{label}"| {names[arrow.end]}')
    for look, (fill, stroke) in CLASSES.items():
        lines.append(f"    classDef {look} fill:{fill},stroke:{stroke},color:#111")
    return "\n".join(lines) + "\n"


def _identify(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def _escape(text: str) -> str:
    for letter, name in (("&", "&amp;"), ('"', "&quot;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(letter, name)
    return text
