"""A registered version with a reference, and the rows that an application counted of it."""

import pathlib

import numpy as np

from raymlops.lifecycle.govern.register import register_file
from raymlops.models.safety import read_model
from raymlops.models.session import open_session
from raymlops.monitoring import reference, row_values
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.tick_store import find_root, read_losses, read_ticks
from raymlops.monitoring.ticks import Tick
from raymlops.settings import Settings
from raymlops.tensors import Batch
from raymlops.tracking import evidence, registry
from raymlops.tracking.run_reader import write_files
from raymlops.tracking.store import connect
from tests import toy_models

ROWS = 500


def make_reference() -> Reference:
    """Of two columns and a score; `origin` has segments."""
    rng = np.random.default_rng(0)
    values = {"distance": rng.gamma(2.0, 400.0, ROWS), "score": rng.random(ROWS)}
    origins = rng.choice(np.array(["JFK", "LGA"], object), ROWS)
    return reference.make_reference(
        {**values, "origin": origins}, {"score": "score"}, segments=[("origin", "JFK")]
    )


def register_doubler(folder: pathlib.Path, settings: Settings, name: str = "doubler") -> str:
    """URI of a version that takes `x` (rows, 3) and answers `y`, with a reference of 500 rows."""
    file = toy_models.save(toy_models.doubler(), folder / "doubler.onnx")
    version, _ = register_file(file, name, "a test", settings)
    values = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    add_reference(f"models:/{name}/{version}", {"x": values}, settings)
    return f"models:/{name}/{version}"


def add_reference(uri: str, batch: Batch, settings: Settings) -> None:
    """What `raymlops reference` does, of rows as the model takes them and without a cluster."""
    client, found = connect(settings), registry.resolve(uri, settings)
    rows = len(next(iter(batch.values())))
    answer = open_session(read_model(found.file, found.digest)).infer(batch)
    answers = row_values.name_answers(row_values.read_answers(answer, rows), batch)
    inputs = row_values.read_inputs(batch, row_values.Texts({}))
    made = reference.make_reference({**inputs, **answers}, dict.fromkeys(answers, "score"))
    content = made.to_bytes()
    write_files(client, found.uri, {evidence.reference_path(found.version): content})
    evidence.sign_reference(found, content, "a test", settings, client)


def read_counts(settings: Settings, application: str) -> dict[str, dict[str, int]]:
    """Sums over all ticks by path: rows, answered, lost, retried."""
    found: dict[str, dict[str, int]] = {}
    for tick in list_ticks(settings, application):
        if not tick.place.segment:
            held = found.setdefault(
                tick.place.path, dict.fromkeys(("rows", "answered", "lost", "retried"), 0)
            )
            for name in held:
                held[name] += getattr(tick, name)
    return found


def list_ticks(settings: Settings, application: str) -> list[Tick]:
    return read_ticks(find_root(settings.storage_path), application)


def count_losses(settings: Settings, application: str) -> int:
    losses = read_losses(find_root(settings.storage_path), application)
    assert all(loss.rows is not None for loss in losses), losses
    return sum(loss.rows or 0 for loss in losses)
