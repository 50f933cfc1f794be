"""The drawings of the documentation as SVG, from a few words each. Written into docs/images by:

PYTHONPATH=docs python -m reference_pages.drawings
"""

import dataclasses
import html
import pathlib
from collections.abc import Iterator, Sequence

FOLDER = pathlib.Path(__file__).parents[1] / "images"
_FONT = "font-family='Helvetica, Arial, sans-serif'"
_WIDTH, _GAP, _LINE, _PAD, _MARGIN = 150, 34, 16, 10, 16


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle with a title, and lines below it."""

    title: str
    lines: tuple[str, ...] = ()
    colour: str = "#e8eaf6"

    @property
    def height(self) -> int:
        return 2 * _PAD + _LINE * (1 + len(self.lines))


@dataclasses.dataclass(frozen=True)
class Row:
    """Boxes from left to right, an arrow between each two; `name` stands above."""

    name: str
    boxes: tuple[Box, ...]
    arrows: bool = True


def draw_rows(rows: Sequence[Row]) -> str:
    """Rows one below the other; each is read from left to right."""
    width = 2 * _MARGIN + max(len(row.boxes) for row in rows) * (_WIDTH + _GAP) - _GAP
    parts: list[str] = []
    top = _MARGIN
    for row in rows:
        height = max(box.height for box in row.boxes)
        if row.name:
            parts.append(_text(_MARGIN, top + 12, row.name, weight="bold", colour="#3949ab"))
            top += 22
        for number, box in enumerate(row.boxes):
            left = _MARGIN + number * (_WIDTH + _GAP)
            parts += _box(left, top, _WIDTH, height, box)
            if number and row.arrows:
                parts.append(_arrow(left - _GAP + 3, left - 4, top + height / 2))
        top += height + 20
    return _picture(width, top - 20 + _MARGIN, parts)


def draw_floors(floors: Sequence[Row]) -> str:
    """Floors of a house, the highest first; imports go down only."""
    most = max(len(floor.boxes) for floor in floors)
    width = 2 * _MARGIN + 110 + most * (_WIDTH - 20 + 10) - 10
    parts: list[str] = []
    top = _MARGIN
    for number, floor in enumerate(floors):
        height = max(box.height for box in floor.boxes)
        parts.append(_text(_MARGIN, top + height / 2 + 5, floor.name, weight="bold", colour="#3949ab"))
        left, right = _MARGIN + 110, width - _MARGIN
        each = (right - left - 10 * (len(floor.boxes) - 1)) / len(floor.boxes)
        for place, box in enumerate(floor.boxes):
            parts += _box(left + place * (each + 10), top, each, height, box)
        top += height + 8
        if number < len(floors) - 1:
            middle = (left + right) / 2
            parts.append(_line(middle, top - 6, middle, top + 8))
            top += 14
    return _picture(width, top - 8 + _MARGIN, parts)


def _box(left: float, top: float, width: float, height: float, box: Box) -> Iterator[str]:
    yield (
        f"<rect x='{left:.0f}' y='{top:.0f}' width='{width:.0f}' height='{height:.0f}' rx='6' fill='{box.colour}' "
        "stroke='#5c6bc0'/>"
    )
    middle = left + width / 2
    start = top + (height - _LINE * (1 + len(box.lines))) / 2 + 12
    yield _text(middle, start, box.title, weight="bold", anchor="middle")
    for number, line in enumerate(box.lines, 1):
        yield _text(middle, start + number * _LINE, line, size=11, anchor="middle", colour="#37474f")


def _text(
    left: float, top: float, text: str, *, size: int = 13, weight: str = "normal", anchor: str = "start",
    colour: str = "#1a237e",
) -> str:  # fmt: skip
    return (
        f"<text x='{left:.0f}' y='{top:.0f}' font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' "
        f"fill='{colour}' {_FONT}>{html.escape(text)}</text>"
    )


def _arrow(left: float, right: float, top: float) -> str:
    return _line(left, top, right, top)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f"<line x1='{x1:.0f}' y1='{y1:.0f}' x2='{x2:.0f}' y2='{y2:.0f}' stroke='#5c6bc0' stroke-width='2' "
        "marker-end='url(#head)'/>"
    )


def _picture(width: float, height: float, parts: Sequence[str]) -> str:
    head = (
        "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='6' markerHeight='6' orient='auto'>"
        "<path d='M0,0 L8,4 L0,8 z' fill='#5c6bc0'/></marker></defs>"
    )
    inner = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' "
        f"height='{height:.0f}'>\n<rect width='100%' height='100%' fill='white'/>\n{head}\n{inner}\n</svg>\n"
    )


_GREEN, _AMBER = "#e0f2f1", "#fff8e1"

OVERVIEW = (
    Row("you write", (
        Box("spec", ("one YAML file",), _AMBER), Box("table", ("CSV, Parquet,", "images, SQL ..."), _AMBER),
    ), arrows=False),
    Row("raymlops search", (
        Box("Ray Data", ("read, check, split", "fit the features")),
        Box("Ray Tune + Train", ("search over trials", "on CPUs and GPUs")),
        Box("one ONNX file", ("takes the raw columns", "equal to what was trained"), _GREEN),
        Box("gate", ("measured against", "the champion")),
        Box("MLflow registry", ("versions, aliases", "signed evidence"), _GREEN),
    )),
    Row("raymlops serve, deploy, predict", (
        Box("MLflow registry", ("models:/flights", "@champion"), _GREEN),
        Box("Ray Serve", ("replicas of", "ONNX Runtime")),
        Box("endpoint", ("Open Inference", "Protocol, REST, gRPC"), _GREEN),
        Box("your clients", ("curl, Triton, KServe", "MLflow"), _AMBER),
        Box("metrics", ("Prometheus", "Grafana, alarms")),
    )),
)  # fmt: skip

FLOORS = (
    Row("entries", (
        Box("cli/", ("the command",)), Box("api", ("import raymlops",)), Box("jobs/", ("scripts for Ray jobs",)),
    )),
    Row("verbs, serving", (
        Box("lifecycle/", ("train, govern, batch",)), Box("serving/", ("protocol, transport, endpoints, replica ...",)),
    )),
    Row("runtime", (Box("runtime/", ("opens models and graphs wherever they are, and measures them",)),)),
    Row("engines", (
        Box("data/", ("Ray Data",)), Box("training/", ("Tune, Train",)), Box("models/", ("ONNX",)),
        Box("evaluation/", ("metrics, gate",)), Box("tracking/", ("MLflow",)), Box("graphs/", ("compositions",)),
        Box("clusters/", ("jobs, doctor",)),
    )),
    Row("events", (Box("events/", ("what happened, and whom it is told: channels, incidents",)),)),
    Row("specs", (Box("specs/", ("what a user may write: frozen pydantic models",)),)),
    Row("values", (
        Box("errors, settings, tensors, features, expressions, metrics ...", ("plain values; nothing of ours above them",)),
    )),
)  # fmt: skip

RECORD = (
    Row("while training", (
        Box("file", ("any reader of", "Ray Data"), _AMBER), Box("contract", ("types, limits;", "bad rows counted")),
        Box("split", ("train, validation,", "test")), Box("fitted features", ("means, vocabularies", "from train only")),
        Box("network", ("torch, or a learner", "of your own")),
        Box("export", ("features become", "nodes of the ONNX"), _GREEN),
    )),
    Row("before it counts", (
        Box("verify", ("ONNX = network on", "the whole test split")), Box("gate", ("limits, champion,", "worst slice")),
        Box("registry", ("file + signature +", "lineage + evidence"), _GREEN),
    )),
)  # fmt: skip

REQUEST = (
    Row("one request", (
        Box("client", ("JSON or binary,", "REST or gRPC"), _AMBER), Box("HAProxy", ("TLS, size limits,", "chooses a replica")),
        Box("transport", ("key, rate, deadline,", "trace context")), Box("protocol", ("decoded once, to", "a batch of arrays")),
        Box("endpoint", ("model or graph;", "shares a run where", "rows are independent")),
        Box("ONNX Runtime", ("one session", "for a replica"), _GREEN),
    )),
    Row("its answer", (
        Box("batch of arrays", ("checked against", "the signature"), _GREEN), Box("protocol", ("encoded once",)),
        Box("metrics, log", ("time of each stage",)), Box("client", ("answer, version,", "request id"), _AMBER),
    )),
)  # fmt: skip

PARAMETER = (
    Row("one value, such as training.lr", (
        Box("specs/", ("default, bounds and", "meaning, once"), _GREEN), Box("YAML or --set", ("what you write",), _AMBER),
        Box("search space", ("a range, where", "it is searched")), Box("trial", ("its own value",)),
        Box("MLflow", ("a parameter of the run", "under the same name"), _GREEN),
        Box("reproduce", ("read back from", "the record")),
    )),
)  # fmt: skip

DRAWINGS = {
    "overview.svg": lambda: draw_rows(OVERVIEW),
    "floors.svg": lambda: draw_floors(FLOORS),
    "record.svg": lambda: draw_rows(RECORD),
    "request.svg": lambda: draw_rows(REQUEST),
    "parameter.svg": lambda: draw_rows(PARAMETER),
}
"""File below docs/images -> what draws it."""


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
