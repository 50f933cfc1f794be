import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from raymlops.features import FittedTarget
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import Batch
from raymlops.training import loop, networks
from raymlops.training.rows import ResidentRows

CPU = torch.device("cpu")
TARGETS = {
    "binary": FittedTarget("y", "binary", "integer", (0, 1)),
    "multiclass": FittedTarget("y", "multiclass", "integer", (0, 1, 2)),
    "regression": FittedTarget("y", "regression", "number", mean=100.0, std=10.0),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """So small a network is slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SPEC = TrainingSpec(epochs=6, batch_size=64, lr=0.01, patience=6)


def rows_of(task: str, count: int, seed: int) -> Batch:
    draw = np.random.default_rng(seed)
    numeric = draw.normal(size=(count, 4)).astype(np.float32)
    category = draw.integers(0, 3, size=(count, 1))
    signal = numeric[:, 0] * 2 - numeric[:, 1] + category[:, 0]
    label: Any = signal.astype(np.float32)
    if task != "regression":
        label = np.digitize(signal, [1.0] if task == "binary" else [0.0, 2.0]).astype(np.int64)
    return {"numeric": numeric, "category": category, "label": label}


class Training:
    """One training: what it reported, and its states as files hold them."""

    def __init__(self, task: str, spec: TrainingSpec = SPEC, *, seed: int = 0, stop_after: int | None = None,
                 state: bytes | None = None, normalise: bool = False) -> None:  # fmt: skip
        self.learned: list[dict[str, float]] = []
        self.states: list[bytes] = []
        self._stop_after = stop_after
        torch.manual_seed(seed)
        target = TARGETS[task]
        options = {"hidden": 16, "normalise": normalise}
        self.network = networks.build_network(
            "mlp", options, numeric=4, categories=(3,), image=(), outputs=target.outputs
        )
        loop.train_network(
            self.network,
            ResidentRows(rows_of(task, 500, seed=1), CPU),
            ResidentRows(rows_of(task, 200, seed=2), CPU),
            spec=spec,
            target=target,
            device=CPU,
            report=self._report,
            state=torch.load(io.BytesIO(state), weights_only=True) if state else None,
        )

    def _report(self, learned: dict[str, float], snapshot: Callable[[], loop.State]) -> bool:
        self.learned.append(learned)
        file = io.BytesIO()
        torch.save(snapshot(), file)
        self.states.append(file.getvalue())
        return len(self.learned) != self._stop_after

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.network.state_dict()


def assert_same_weights(first: Training, second: Training) -> None:
    for name, values in first.weights.items():
        assert torch.equal(values, second.weights[name]), name


@pytest.mark.parametrize("task", TARGETS)
def test_the_loop_learns_every_task(task: str) -> None:
    training = Training(task)
    assert [report["epoch"] for report in training.learned] == [1, 2, 3, 4, 5, 6]
    assert training.learned[-1]["train_loss"] < training.learned[0]["train_loss"]
    first, last = training.learned[0], training.learned[-1]
    if task == "binary":
        assert last["roc_auc"] > 0.9
    elif task == "multiclass":
        assert last["log_loss"] < 0.9
    else:
        assert last["rmse"] < first["rmse"]


@pytest.mark.parametrize("task", TARGETS)
def test_the_same_seed_and_rows_give_the_same_weights_bit_for_bit(task: str) -> None:
    first, second = Training(task), Training(task)
    assert_same_weights(first, second)
    for one, other in zip(first.learned, second.learned, strict=True):
        assert {**one, "rows_per_second": 0} == {**other, "rows_per_second": 0}


def test_another_seed_gives_other_weights() -> None:
    first, second = Training("binary"), Training("binary", SPEC.model_copy(update={"seed": 1}))
    assert not torch.equal(first.weights["body.0.weight"], second.weights["body.0.weight"])


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(stopped: int) -> None:
    whole = Training("binary", normalise=True)
    begun = Training("binary", normalise=True, stop_after=stopped)
    resumed = Training("binary", normalise=True, seed=99, state=begun.states[-1])
    assert [report["epoch"] for report in resumed.learned] == list(range(stopped + 1, 7))
    assert_same_weights(whole, resumed)
    assert resumed.learned[-1]["best_roc_auc"] == whole.learned[-1]["best_roc_auc"]


def test_a_state_loads_without_running_code_and_keeps_the_best_weights() -> None:
    training = Training(
        "binary", TrainingSpec(epochs=8, batch_size=32, lr=0.3, patience=8, schedule="constant")
    )
    curve = [report["roc_auc"] for report in training.learned]
    state = torch.load(io.BytesIO(training.states[-1]), weights_only=True)
    assert state["best"] == max(curve)
    assert state["best_epoch"] == int(np.argmax(curve)) + 1
    at_best = torch.load(io.BytesIO(training.states[state["best_epoch"] - 1]), weights_only=True)["network"]
    for name, values in state["best_network"].items():
        assert torch.equal(values, at_best[name])


def test_it_stops_when_patience_runs_out() -> None:
    spec = TrainingSpec(epochs=50, batch_size=64, lr=1e-12, patience=2, schedule="constant")
    training = Training("binary", spec)
    assert len(training.learned) < 50
    assert len(training.learned) - int(np.argmax([r["roc_auc"] for r in training.learned])) - 1 == 2


def test_it_stops_when_the_reporter_says_so() -> None:
    assert len(Training("regression", stop_after=2).learned) == 2


def test_a_loss_that_is_no_number_ends_a_trial_as_the_poorest() -> None:
    spec = TrainingSpec(epochs=5, batch_size=64, lr=1e30, clip_norm=1e30, schedule="constant")
    for task, poorest in (("regression", {"best_rmse": math.inf}), ("binary", {"best_roc_auc": -math.inf})):
        training = Training(task, spec)
        assert len(training.learned) == 1
        assert poorest.items() <= training.learned[0].items()


def test_a_last_batch_of_one_row_is_left_to_the_next_epoch() -> None:
    training = Training("binary", SPEC.model_copy(update={"batch_size": 499, "epochs": 2}), normalise=True)
    assert len(training.learned) == 2


def test_metrics_of_a_regression_are_in_the_unit_of_the_target() -> None:
    training = Training("regression")
    assert training.learned[0]["rmse"] > 1  # standardised it would be near 1/10 of that


@pytest.mark.parametrize("kind", ["constant", "cosine", "onecycle"])
def test_a_schedule_stays_between_nothing_and_the_peak(kind: str) -> None:
    shares = [loop.schedule(kind, step, 100) for step in range(100)]
    assert max(shares) == pytest.approx(1.0, abs=0.01)
    assert min(shares) >= 0
    assert kind == "constant" or shares[-1] < 0.01
    assert loop.schedule(kind, 0, 1) >= 0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_each_batch_and_the_batches_are_those_of_one_worker(world: int) -> None:
    arrays = {"numeric": np.arange(50, dtype=np.float32)[:, None], "label": np.arange(50)}
    alone = [batch["label"].tolist() for batch, _ in ResidentRows(arrays, CPU).shuffled(8, seed=1)]
    assert [len(batch) for batch in alone] == [8] * 6 + [2]
    parts = [list(ResidentRows(arrays, CPU, rank, world).shuffled(8, seed=1)) for rank in range(world)]
    for whole, *shares in zip(alone[:6], *parts, strict=False):
        assert sorted(value for share, _ in shares for value in share["label"].tolist()) == sorted(whole)
        assert sum(weight for _, weight in shares) == pytest.approx(world)
        for share, weight in shares:
            assert weight == pytest.approx(len(share["label"]) * world / 8)


def test_every_worker_takes_as_many_steps_as_the_others() -> None:
    for count in range(20, 60):
        arrays = {"label": np.arange(count)}
        parts = [list(ResidentRows(arrays, CPU, rank, 4).shuffled(16, seed=0)) for rank in range(4)]
        assert len({len(part) for part in parts}) == 1
        assert all(len(share["label"]) > 1 for part in parts for share, _ in part)


def test_workers_together_score_every_row_once() -> None:
    arrays = {"numeric": np.arange(10, dtype=np.float32)[:, None], "label": np.arange(10)}
    parts = [ResidentRows(arrays, CPU, rank, 3) for rank in range(3)]
    seen = [value for part in parts for batch in part.in_order(2) for value in batch["label"].tolist()]
    assert sorted(seen) == list(range(10))


def test_a_shuffle_visits_each_row_once_and_repeats_with_its_seed() -> None:
    arrays = {"numeric": np.zeros((50, 1), dtype=np.float32), "label": np.arange(50)}
    rows = ResidentRows(arrays, CPU)
    orders = [
        [v for batch, _ in rows.shuffled(8, seed=seed) for v in batch["label"].tolist()] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50))
    rest = [v for batch, _ in rows.shuffled(8, seed=1, skip=2) for v in batch["label"].tolist()]
    assert rest == orders[0][16:]
