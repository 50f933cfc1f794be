import asyncio
import logging
from collections.abc import Callable

import pytest

from raymlops.errors import RaymlopsError
from raymlops.serving.replica.background import LONGEST_PAUSE_S, Repeated

KINDS = [
    ValueError("broken"),
    MemoryError(),
    RecursionError("deep"),
    KeyError("k"),
    TimeoutError(),
    AssertionError(),
]


def run(step: Callable[[int], None], until: int) -> Repeated:
    """Repeat until the step was tried so many times."""

    async def go() -> Repeated:
        tries = 0
        done = asyncio.Event()

        async def counted() -> None:
            nonlocal tries
            tries += 1
            if tries == until:
                done.set()
            step(tries)

        repeated = Repeated("keys", counted, period_s=1e-9)
        repeated.start()
        await asyncio.wait_for(done.wait(), 60)
        repeated.check()
        repeated.stop()
        return repeated

    return asyncio.run(go())


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_no_failure_ends_a_background_task(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def step(tries: int) -> None:
        if tries < 4:
            raise error

    with caplog.at_level(logging.INFO):
        repeated = run(step, until=6)
    assert repeated.failures == 0
    assert (
        f"background task 'keys' failed 3 times in a row; it is tried again in 0 s: {type(error).__name__}"
        in caplog.text
    )
    assert "Traceback" in caplog.text
    assert "background task 'keys' works again" in caplog.text


def test_pauses_grow_while_it_fails() -> None:
    async def step() -> None:
        pass

    repeated = Repeated("keys", step, period_s=2.0)
    pauses = []
    for repeated.failures in (0, 1, 2, 3, 5, 100):
        pauses.append(repeated.pause_s)
    assert pauses == [2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_step_that_never_comes_back_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        tried = 0
        done = asyncio.Event()

        async def step() -> None:
            nonlocal tried
            tried += 1
            if tried == 2:
                done.set()
            await asyncio.Event().wait()

        repeated = Repeated("metrics", step, period_s=1e-9, patience_s=0.01)
        repeated.start()
        await asyncio.wait_for(done.wait(), 60)
        repeated.stop()

    asyncio.run(go())
    assert "background task 'metrics' failed 1 times in a row" in caplog.text


def test_one_that_has_ended_fails_the_health_check() -> None:
    async def go() -> None:
        async def step() -> None:
            raise asyncio.CancelledError

        repeated = Repeated("keys", step, period_s=0.0)
        repeated.check()
        repeated.start()
        await asyncio.wait([repeated._task])  # type: ignore[list-item]
        with pytest.raises(RaymlopsError, match="'keys' has ended"):
            repeated.check()

    asyncio.run(go())
