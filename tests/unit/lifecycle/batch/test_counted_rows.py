import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymlops.errors import StorageError
from raymlops.lifecycle.batch.counted_rows import APPLICATION, write_counts
from raymlops.lifecycle.batch.predict import OnnxScorer
from raymlops.models.safety import read_model
from raymlops.monitoring import row_values
from raymlops.monitoring.reference import make_reference
from raymlops.monitoring.tick_counter import WatchedModel
from raymlops.monitoring.tick_store import TickStore, find_root
from raymlops.monitoring.ticks import Place, Tick
from raymlops.settings import Settings
from tests import toy_models

PLACE = Place("predict/toy", "table", "toy", "1", "ab" * 32)


class Report:
    """Of a worker's blocks, here."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []

    def report(self, *arguments: Any) -> None: ...

    def count(self, ticks: Sequence[Tick]) -> None:
        self.ticks += ticks


def test_rows_that_are_predicted_are_counted_as_an_endpoint_counts_them(tmp_path: pathlib.Path) -> None:
    model = read_model(toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx"))
    values = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    answers = row_values.read_answers({"y": 2 * values}, 1000)
    columns = {**row_values.read_inputs({"x": values}, row_values.Texts({})), **answers}
    reference = make_reference(columns, dict.fromkeys(answers, "score"))
    report: Any = Report()
    scorer = OnnxScorer(model, (), 1, 64, report, WatchedModel(PLACE, reference))
    blocks = pa.table({"x": pa.FixedSizeListArray.from_arrays(values.ravel(), 3)})
    for begin in range(0, 1000, 300):
        assert scorer(blocks.slice(begin, 300)).num_rows == min(300, 1000 - begin)
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path), "USER": "tester"})
    told = write_counts(report.ticks, reference.to_bytes(), settings)
    assert told == "1,000 rows are counted for monitoring, in the application 'predict'"
    store = TickStore(find_root(settings.storage_path), APPLICATION)
    (tick,) = store.read()
    assert (tick.place, tick.rows, tick.answered) == (PLACE, 1000, 1000)
    assert np.array_equal(tick.counts, reference.count(columns))


def test_a_store_that_is_away_is_told_and_the_predictions_stay(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: TickStore, *arguments: Any) -> str:
        raise StorageError("no space is left")

    monkeypatch.setattr(TickStore, "write_reference", refuse)
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path), "USER": "tester"})
    tick = Tick(PLACE, 0, 60, np.zeros((0, 32), np.int64), answered=3)
    assert "not counted for monitoring: no space is left" in write_counts([tick], b"", settings)
    assert write_counts([], b"", settings) == ""
