"""Teams of real processes that boost trees: each on its share of the rows, all with the trees and results of one."""

import multiprocessing
import os
import pathlib
import socket
from typing import Any

import numpy as np
import pytest
import xgboost
from torch import distributed

from raymlops.training.learners import Run, State, Team, boosting, find_learner, lightgbm, tree_rows
from tests.learner_rows import draw_rows, job_for, scores_of_file, spec_for, train

LEARNERS = ("lightgbm", "xgboost")
ROWS = {"train": 3001, "validation": 1000}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "lightgbm": ("multiclass", {"class_weights": {"a": 3.0}}),
    "xgboost": ("regression", {"loss": "quantile", "quantile": 0.9}),
}


def make_job(learner: str, workers: int) -> Any:
    options = {"rounds": 40, "learning_rate": 0.1}
    task, asked = ASKED[learner]
    spec = spec_for(learner, options, epochs=4, patience=4, workers=workers, **asked)
    rows = (draw_rows(count, task, seed) for seed, count in enumerate(ROWS.values(), start=1))
    # sorted by a column, as tables often are
    train_rows, validation = ({name: values[np.argsort(one["plain"][:, -1])] for name, values in one.items()}
                              for one in rows)  # fmt: skip
    return job_for(spec, task, train_rows, validation)


def train_part(
    learner: str, rank: int, ports: list[int], folder: str, connect: dict[str, Any],
    state: State | None, reports: int, end: Any,
) -> None:  # fmt: skip
    """One worker; the first sends the states that it reported."""
    boosting.REPORT_SECONDS = 0.0
    world = len(ports)
    machines = ",".join(f"127.0.0.1:{port}" for port in ports)
    network = {"num_machines": world, "local_listen_port": ports[rank], "machines": machines}
    lightgbm.get_network_params = lambda: network
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    states: list[State] = []

    def report(metrics: dict[str, float], snapshot: Any) -> bool:
        states.append(snapshot())
        return len(states) < reports

    job = make_job(learner, world)
    run = Run(job.only(find_learner(learner).reads), job.spec, report, state, Team(rank, world))
    if connect:
        with xgboost.collective.CommunicatorContext(**connect, dmlc_task_id=str(rank)):
            find_learner(learner).fit(run)
    else:
        find_learner(learner).fit(run)
    end.send((rank, states[-1]))
    end.close()
    os._exit(0)  # without waiting for the sockets of the others


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def train_together(
    folder: pathlib.Path, learner: str, world: int, state: State | None = None, reports: int = 99
) -> State:
    folder.mkdir()
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["tests.unit.training.test_tree_teams"])
    connect: dict[str, Any] = {}
    if learner == "xgboost":
        tracker = xgboost.RabitTracker(n_workers=world, host_ip="127.0.0.1", sortby="task")
        tracker.start()
        connect = dict(tracker.worker_args())
    ports, pipes = free_ports(world), [start.Pipe(duplex=False) for _ in range(world)]
    workers = [
        start.Process(
            target=train_part,
            args=(learner, rank, ports, str(folder), connect, state, reports, pipes[rank][1]),
        )
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    for _, theirs in pipes:
        theirs.close()
    try:
        found: dict[int, State] = dict(ours.recv() for ours, _ in pipes)
    finally:
        for worker in workers:
            worker.join(60)
            worker.kill()
    assert all(one["history"] == found[0]["history"] for one in found.values()), "all agree"
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_team_is_as_good_as_one_worker_and_goes_on_with_any_number(
    tmp_path: pathlib.Path, learner: str
) -> None:
    task, job = ASKED[learner][0], make_job(learner, 1)
    metric = job.spec.training.metric_of(task)
    _, alone, _ = train(job)
    best = min(entry[metric] for entry in alone["history"])
    begun = train_together(tmp_path / "begun", learner, 2, reports=2)
    assert [entry["epoch"] for entry in begun["history"]] == [1, 2]
    assert begun["history"][0]["workers"] == 2
    ended = train_together(tmp_path / "ended", learner, 3, begun)
    assert ended["history"][:2] == begun["history"]
    assert [entry["epoch"] for entry in ended["history"]] == [1, 2, 3, 4]
    assert min(entry[metric] for entry in ended["history"]) < best * 1.1
    assert ended["history"][3][metric] < ended["history"][1][metric]
    scorer, test = find_learner(learner).load(ended, job), draw_rows(500, task, 3, unseen=0.1)
    np.testing.assert_allclose(scores_of_file(scorer, job, test), scorer.scores(test), atol=1e-4)


@pytest.mark.parametrize("learner", LEARNERS)
def test_rows_that_are_read_in_parts_give_the_trees_of_one_matrix(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "REPORT_SECONDS", 0.0)
    job, test = make_job(learner, 1), draw_rows(500, ASKED[learner][0], 3)
    whole, _, _ = train(job)
    monkeypatch.setattr(tree_rows, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(tree_rows, "_PART_BYTES", 400 * 4 * 9)
    given = tree_rows.read_rows(Run(job, job.spec, lambda *_: True), lightgbm._options_for)
    assert [part.count for part in given.parts] == [400] * 7 + [201]
    parts, _, _ = train(job)
    _, state, _ = train(job, reports=2)
    resumed, _, _ = train(job, state)
    np.testing.assert_array_equal(resumed.scores(test), parts.scores(test))
    # XGBoost finds its bins by other steps
    tolerance = 0.0 if learner == "lightgbm" else 0.1
    np.testing.assert_allclose(parts.scores(test), whole.scores(test), rtol=0, atol=tolerance)
