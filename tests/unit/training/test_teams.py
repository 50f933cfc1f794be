"""Teams of real processes: any number of workers takes the same steps, and each state is one to go on from."""

import io
import multiprocessing
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import distributed, nn

from raymlops.features import FittedTarget
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import Batch
from raymlops.training import loop, networks
from raymlops.training.rows import ResidentRows, Rows
from raymlops.training.streamed import StreamedRows
from tests.unit.training.test_loop import rows_of

CPU = torch.device("cpu")
TARGET = FittedTarget("y", "binary", "integer", (0, 1))
SPEC = TrainingSpec(epochs=3, batch_size=50, lr=0.01, patience=6, workers=3)
STREAMED = SPEC.model_copy(update={"resident_bytes": 0})
ROWS = 487  # ten batches, the last one short

pytestmark = pytest.mark.slow


def rows_for(spec: TrainingSpec, count: int, seed: int, rank: int, world: int) -> Rows:
    arrays = rows_of("binary", count, seed=seed)
    if spec.resident_bytes:
        return ResidentRows(arrays, CPU, rank, world, spec.workers)
    sizes = [64] * (count // 64) + [count % 64]

    def load(numbers: Sequence[int]) -> list[Batch]:
        return [
            {name: values[64 * number : 64 * (number + 1)] for name, values in arrays.items()}
            for number in numbers
        ]

    return StreamedRows(sizes, load, CPU, rank, world, spec.workers)


def train_part(
    rank: int, world: int, store: str, spec: TrainingSpec, dropout: float, saved: bytes | None, save_at: int,
    end: Any,
) -> None:  # fmt: skip
    """One worker; the first sends what was reported, with the states."""
    torch.set_num_threads(1)
    team = loop.Team(rank, world)
    torch.manual_seed(0)
    options = {"hidden": 16, "dropout": dropout, "embedding_dropout": 0.0}
    network: nn.Module = networks.build_network(
        "mlp", options, numeric=4, categories=(3,), image=(), outputs=1
    )
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        network = nn.parallel.DistributedDataParallel(network)
    learned: list[tuple[dict[str, float], bytes]] = []
    asked = 0

    def report(found: dict[str, float], snapshot: Callable[[], loop.State]) -> bool:
        file = io.BytesIO()
        torch.save(snapshot(), file)
        learned.append((found, file.getvalue()))
        return True

    def save_now() -> bool:
        nonlocal asked
        asked += 1
        return asked == save_at

    loop.train_network(
        network,
        rows_for(spec, ROWS, 1, rank, world),
        rows_for(spec, 101, 2, rank, world),
        spec=spec, target=TARGET, device=CPU, report=report, save_now=save_now, team=team,
        state=torch.load(io.BytesIO(saved), weights_only=True) if saved else None,
    )  # fmt: skip
    if rank == 0:
        end.send(learned)
    if world > 1:
        distributed.destroy_process_group()


def train_together(
    folder: pathlib.Path, world: int, saved: bytes | None = None, *, spec: TrainingSpec = SPEC,
    dropout: float = 0.0, save_at: int = -1,
) -> list[tuple[dict[str, float], bytes]]:  # fmt: skip
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["tests.unit.training.test_teams"])  # torch is imported once
    ours, theirs = start.Pipe(duplex=False)
    store = folder / f"store-{world}-{save_at}-{saved is None}"
    workers = [
        start.Process(
            target=train_part, args=(rank, world, str(store), spec, dropout, saved, save_at, theirs)
        )
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    theirs.close()
    try:
        found: list[tuple[dict[str, float], bytes]] = ours.recv()
    finally:
        for worker in workers:
            worker.join(60)
            worker.kill()
    return found


def curve(learned: list[tuple[dict[str, float], bytes]]) -> list[tuple[int, float]]:
    return [(int(found["epoch"]), found["train_loss"]) for found, _ in learned if loop.UNDER_WAY not in found]


def weights(learned: list[tuple[dict[str, float], bytes]]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(learned[-1][1]), weights_only=True)["network"]
    return state


@pytest.mark.parametrize("spec", [SPEC, STREAMED], ids=["resident", "streamed"])
def test_any_number_of_workers_learns_the_same(tmp_path: pathlib.Path, spec: TrainingSpec) -> None:
    alone = train_together(tmp_path, 1, spec=spec)
    team = train_together(tmp_path, 3, spec=spec)
    assert [epoch for epoch, _ in curve(team)] == [1, 2, 3]
    for (_, one), (_, other) in zip(curve(alone), curve(team), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for name, values in weights(alone).items():
        assert torch.allclose(values, weights(team)[name], atol=1e-4), name
    assert alone[-1][0]["roc_auc"] == pytest.approx(team[-1][0]["roc_auc"], abs=1e-3)


@pytest.mark.parametrize("spec", [SPEC, STREAMED], ids=["resident", "streamed"])
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_a_team_that_changes_in_the_middle_of_an_epoch_leaves_the_curve_as_it_was(
    tmp_path: pathlib.Path, before: int, after: int, spec: TrainingSpec
) -> None:
    whole = train_together(tmp_path, 1, spec=spec)
    begun = train_together(tmp_path, before, spec=spec, save_at=14)  # four steps into the second epoch
    (at,) = [index for index, (found, _) in enumerate(begun) if loop.UNDER_WAY in found]
    assert begun[at][0]["epoch"] == 1
    state = torch.load(io.BytesIO(begun[at][1]), weights_only=True)
    assert (state["epoch"], state["step"]) == (1, 4)
    rest = train_together(tmp_path, after, begun[at][1], spec=spec)
    joined = curve(begun[:at]) + curve(rest)
    assert [epoch for epoch, _ in joined] == [1, 2, 3]
    for (_, one), (_, other) in zip(curve(whole), joined, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for name, values in weights(whole).items():
        assert torch.allclose(values, weights(rest)[name], atol=1e-4), name


@pytest.mark.parametrize("world", [1, 2])
def test_dropout_goes_on_where_it_was(tmp_path: pathlib.Path, world: int) -> None:
    whole = train_together(tmp_path, world, dropout=0.3, save_at=7)
    assert whole[0][0].keys() >= {"epoch", "best_roc_auc", loop.UNDER_WAY}
    rest = train_together(tmp_path, world, whole[0][1], dropout=0.3)
    for (_, one), (_, other) in zip(curve(whole), curve(rest), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    for name, values in weights(whole).items():
        assert torch.equal(values, weights(rest)[name]), name
