"""A few thousand requests of every kind; `make survive` sends a million. See `tests/fuzzing.py`."""

import asyncio

import psutil
import pytest

from tests.fuzzing import fuzz, fuzzed_server

REQUESTS = 4_000


@pytest.mark.slow
def test_whatever_is_sent_is_answered_and_never_by_a_fault_or_for_another() -> None:
    with fuzzed_server() as (process, ports):
        tally = asyncio.run(fuzz(ports, REQUESTS, REQUESTS // 8, seconds=120, seed=1))
        assert process.poll() is None
        memory = psutil.Process(process.pid).memory_info().rss
    tally.check()
    assert tally.sent >= REQUESTS
    assert tally.compared > REQUESTS / 4
    assert memory < 1_000_000_000
