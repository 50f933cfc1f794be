import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.errors import NotFoundError, OverloadedError, ResourceError
from raymlops.serving.endpoints.model_cache import PENANCE, ModelCache

SIZES = dict.fromkeys("abcdef", 10)


def make_cache(budget: int = 30, **options: object) -> tuple[ModelCache[str], list[str], list[str]]:
    loaded: list[str] = []
    closed: list[str] = []

    def load(name: str) -> str:
        loaded.append(name)
        return name.upper()

    return ModelCache(load, SIZES, budget, close=closed.append, **options), loaded, closed


@contextlib.asynccontextmanager
async def use(cache: ModelCache[str], name: str) -> AsyncIterator[str]:
    model = await cache.acquire(name)
    try:
        yield model
    finally:
        cache.release(name)


def test_the_least_recently_used_model_leaves() -> None:
    async def go() -> None:
        cache, _, closed = make_cache()
        for name in "abcab":
            await cache.load(name)
        await cache.load("d")
        assert closed == ["C"]
        assert [cache.state(name) for name in "abcd"] == ["READY", "READY", "UNAVAILABLE", "READY"]
        assert cache.held == 30

    asyncio.run(go())


def test_a_model_is_loaded_once_however_many_ask() -> None:
    async def go() -> None:
        cache, loaded, _ = make_cache()
        assert await asyncio.gather(*(cache.acquire("a") for _ in range(9))) == ["A"] * 9
        assert loaded == ["a"]

    asyncio.run(go())


def test_different_models_load_in_parallel() -> None:
    async def go() -> None:
        barrier = threading.Barrier(2, timeout=60)  # opens only when both loads have begun
        cache: ModelCache[int] = ModelCache(lambda name: barrier.wait(), SIZES, 30, threads=2)
        await asyncio.gather(cache.load("a"), cache.load("b"))
        assert cache.count.loads == 2

    asyncio.run(go())


def test_a_short_load_needs_no_thread_unless_it_has_to_be_waited_for() -> None:
    seen: list[bool] = []

    def load(name: str) -> str:
        if name == "a":
            seen.append(threading.current_thread() is threading.main_thread())
            time.sleep(0.1 if len(seen) == 3 else 0.0)  # the third time the disk is slow
        return name

    async def go() -> None:
        cache: ModelCache[str] = ModelCache(load, SIZES, 10)
        for _ in range(4 + PENANCE):
            await cache.load("a")
            await cache.load("b")

    asyncio.run(go())
    assert seen == [False, True, True, *[False] * PENANCE, True]


def test_a_model_in_use_is_never_evicted_and_room_is_waited_for() -> None:
    async def go() -> None:
        cache, _, closed = make_cache(budget=20)
        async with use(cache, "a"):
            async with use(cache, "b"):
                waiting = asyncio.ensure_future(cache.acquire("c"))
                await asyncio.sleep(0.01)
                assert not waiting.done()
            assert await waiting == "C"
            assert closed == ["B"]

    asyncio.run(go())


def test_who_waits_in_vain_is_told_to_come_again() -> None:
    async def go() -> None:
        cache, _, _ = make_cache(budget=10, patience_s=0.01)
        async with use(cache, "a"):
            with pytest.raises(OverloadedError, match="No room for model 'b': 10 of 10 bytes"):
                await cache.acquire("b")
        await cache.load("b")

    asyncio.run(go())


def test_a_model_above_the_whole_budget_is_refused() -> None:
    async def go() -> None:
        cache, _, _ = make_cache(budget=5)
        with pytest.raises(ResourceError, match="takes 10 bytes, over the whole budget of 5"):
            await cache.load("a")

    asyncio.run(go())


def test_an_unknown_model_gets_the_near_ones() -> None:
    async def go() -> None:
        cache, _, _ = make_cache()
        with pytest.raises(NotFoundError, match="Unknown model 'z'"):
            await cache.acquire("z")

    asyncio.run(go())


def test_an_unloaded_model_stays_closed_until_it_is_loaded() -> None:
    async def go() -> None:
        cache, _, closed = make_cache()
        async with use(cache, "a"):
            cache.unload("a")
            assert closed == []
        assert closed == ["A"]
        with pytest.raises(NotFoundError, match="/v2/repository/models/a/load"):
            await cache.acquire("a")
        assert cache.state("a") == "UNLOADED"
        await cache.load("a")
        assert cache.state("a") == "READY"

    asyncio.run(go())


def test_a_failed_load_is_told_to_all_and_tried_again() -> None:
    async def go() -> None:
        tries: list[str] = []

        def load(name: str) -> str:
            tries.append(name)
            if len(tries) == 1:
                raise OSError("the disk is away")
            return name

        cache: ModelCache[str] = ModelCache(load, SIZES, 30)
        results = await asyncio.gather(cache.acquire("a"), cache.acquire("a"), return_exceptions=True)
        assert [str(result) for result in results] == ["the disk is away"] * 2
        assert cache.held == 0
        assert await cache.acquire("a") == "a"

    asyncio.run(go())


def test_a_caller_that_goes_away_neither_stops_the_load_nor_keeps_the_model() -> None:
    async def go() -> None:
        gate = threading.Event()

        def load(name: str) -> str:
            gate.wait(60)
            return name

        cache: ModelCache[str] = ModelCache(load, SIZES, 10)
        gone, stays = asyncio.ensure_future(cache.acquire("a")), asyncio.ensure_future(cache.acquire("a"))
        await asyncio.sleep(0.01)
        gone.cancel()
        gate.set()
        assert await stays == "a"
        cache.release("a")
        await cache.load("b")  # so nobody else holds it
        assert cache.state("a") == "UNAVAILABLE"

    asyncio.run(go())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=40), st.integers(1, 4))
def test_however_requests_come_the_budget_holds_and_all_are_answered(
    requests: list[tuple[str, int]], models: int
) -> None:
    async def go() -> None:
        cache, _, _ = make_cache(budget=models * 10)

        async def ask(name: str, pauses: int) -> None:
            async with use(cache, name) as model:
                for _ in range(pauses):
                    assert cache.held <= cache.budget
                    await asyncio.sleep(0)
                assert model == name.upper()
                assert cache.state(name) == "READY"

        await asyncio.gather(*(ask(name, pauses) for name, pauses in requests))
        assert cache.held <= cache.budget

    asyncio.run(go())
