"""Requests join, keep their order and their rows, and fail alone. Timing decides nothing here: gates do."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from raymlops.errors import DeadlineError, InputError, OverloadedError
from raymlops.serving.endpoints.queue_batcher import BatchOptions, QueueBatcher, join, split
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.tensors import Batch


class Gate:
    """A model that doubles x, records what it ran, and waits while closed."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.runs: list[list[float]] = []

    def __call__(self, batch: Batch) -> Batch:
        assert self.open.wait(20)
        self.runs.append(batch["x"].tolist())
        if (batch["x"] < 0).any():
            raise InputError("x must not be negative")
        return {"y": batch["x"] * 2}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def batch(*values: float) -> Batch:
    return {"x": np.array(values, np.float32)}


async def ask_all(gate: Gate, options: BatchOptions, batches: list[Batch]) -> tuple[list[Any], Statistics]:
    """The first batch enters the closed gate; the rest gather; then it opens."""
    statistics = Statistics("toy", "1")
    batcher = QueueBatcher(gate, options, statistics)
    tasks = []
    for one in batches:
        tasks.append(asyncio.create_task(batcher.submit(one, len(one["x"]), 30)))
        await asyncio.sleep(0.01)
    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    batcher.close()
    return results, statistics


def test_requests_that_wait_join_one_run_in_their_order() -> None:
    gate = Gate()
    results, statistics = run(ask_all(gate, BatchOptions(), [batch(1), batch(2), batch(3, 4), batch(5)]))
    assert gate.runs == [[1], [2, 3, 4, 5]]
    assert [result["y"].tolist() for result in results] == [[2], [4], [6, 8], [10]]
    assert (statistics.runs, statistics.rows) == (2, 5)


def test_a_request_is_never_split_over_runs() -> None:
    gate = Gate()
    run(ask_all(gate, BatchOptions(max_rows=3), [batch(0), batch(1, 2), batch(3, 4), batch(5, 6, 7, 8)]))
    assert gate.runs == [[0], [1, 2], [3, 4], [5, 6, 7, 8]]


def test_without_joining_each_runs_alone() -> None:
    gate = Gate()
    run(ask_all(gate, BatchOptions(join=False), [batch(0), batch(1), batch(2)]))
    assert gate.runs == [[0], [1], [2]]


def test_a_bad_request_fails_alone() -> None:
    gate = Gate()
    results, _ = run(ask_all(gate, BatchOptions(), [batch(0), batch(1), batch(-1), batch(3)]))
    assert isinstance(results[2], InputError)
    assert [results[i]["y"].tolist() for i in (1, 3)] == [[2], [6]]


def test_a_full_queue_sheds_at_once() -> None:
    gate = Gate()
    results, _ = run(ask_all(gate, BatchOptions(queue=2), [batch(i) for i in range(6)]))
    shed = [result for result in results if isinstance(result, OverloadedError)]
    assert len(shed) == 3  # one runs, two wait


def test_a_request_past_its_deadline_is_told_so_and_not_run() -> None:
    gate = Gate()

    async def work() -> None:
        batcher = QueueBatcher(gate, BatchOptions(), Statistics("toy", "1"))
        first = asyncio.create_task(batcher.submit(batch(1), 1, 30))
        await asyncio.sleep(0.01)
        with pytest.raises(DeadlineError):
            await batcher.submit(batch(2), 1, 0.01)
        gate.open.set()
        await first
        await batcher.submit(batch(3), 1, 30)
        batcher.close()

    run(work())
    assert gate.runs == [[1], [3]]


def test_different_inner_shapes_do_not_join() -> None:
    gate = Gate()
    wide = {"x": np.ones((1, 2), np.float32)}
    results, _ = run(ask_all(gate, BatchOptions(), [batch(0), batch(1), wide, batch(2)]))
    assert gate.runs == [[0], [1], [[1, 1]], [2]]
    assert all(not isinstance(result, Exception) for result in results)


def test_join_and_split_are_inverse_and_wrong_answers_are_caught() -> None:
    parts = [batch(1), batch(2, 3)]
    assert [part["x"].tolist() for part in split(join(parts), [1, 2])] == [[1], [2, 3]]
    with pytest.raises(ValueError, match="batching"):
        split(batch(1, 2), [1, 2])
