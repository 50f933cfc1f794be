"""Replicas and the collector of counts are killed under load: each answered row is counted, or stated as lost."""

import asyncio
import contextlib
import pathlib
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from raymlops.settings import Settings
from tests.monitored_versions import count_losses, read_counts, register_doubler
from tests.serving_process import Served, serve_for
from tests.survival.test_serving_survival import Load, is_listening

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS = 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("counted")
    uri = register_doubler(folder, find_settings(folder))
    yield from serve_for(folder, make_spec(uri))


def make_spec(uri: str) -> dict[str, Any]:
    return {
        "name": "app",
        "models": {"toy": {"source": uri}},
        "replicas": 2,
        "cpus": 0.2,
        "monitoring": {"tick_seconds": 2},
    }


def find_settings(folder: pathlib.Path) -> Settings:
    return Settings.from_env({"RAYMLOPS_HOME": str(folder / "home"), "USER": "tester"})


def find_collector(served: Served) -> list[psutil.Process]:
    found = psutil.Process(served.process.pid).children(recursive=True)
    return [
        process
        for process in found
        if process.is_running() and "_Collector" in " ".join(process.cmdline()[:1])
    ]


def test_rows_counted_and_rows_lost_are_the_rows_that_were_answered(served: Served) -> None:
    settings, load, chosen = (
        find_settings(served.folder),
        Load(f"{served.url}/v2/models/toy/infer"),
        random.Random(1),
    )
    killed = {"replica": 0, "collector": 0}

    async def kill() -> None:
        for number in range(KILLS):
            await asyncio.sleep(chosen.uniform(1.0, 6.0))
            for _ in range(300):
                replicas = [one for one in served.replicas() if is_listening(one)]
                if len(replicas) == 2:
                    break
                await asyncio.sleep(0.2)
            collectors = find_collector(served)
            if number % 4 == 3 and collectors:
                collectors[0].send_signal(signal.SIGKILL)
                killed["collector"] += 1
            else:
                chosen.choice(replicas).send_signal(signal.SIGKILL)
                killed["replica"] += 1
        await asyncio.sleep(5)

    asyncio.run(load.run(kill()))
    assert killed["replica"] >= 10
    assert killed["collector"] >= 3
    answered = sum(count for told, count in load.told.items() if told.startswith("200"))
    ambiguous = sum(load.told.values()) - answered
    """Requests that were in a killed replica: some of them had been answered, but the answer did not arrive."""
    ends = time.monotonic() + 120
    while True:
        found = read_counts(settings, "app").get("toy", {"answered": 0, "rows": 0, "lost": 0})
        if found["answered"] >= answered or time.monotonic() > ends:
            break
        time.sleep(1.0)
    told = f"{found}, {dict(load.told)}, {killed}"
    assert answered <= found["answered"] <= answered + ambiguous, told
    assert found["rows"] + found["lost"] + found["retried"] <= found["answered"], told
    assert 0 < found["lost"] == count_losses(settings, "app"), told
    print(told)


def test_a_store_that_is_away_slows_no_answer_and_loses_nothing(served: Served) -> None:
    settings = find_settings(served.folder)
    root = pathlib.Path(settings.storage_path) / "monitoring"
    before = read_counts(settings, "app")["toy"]["answered"]

    async def ask(seconds: float) -> Load:
        load = Load(f"{served.url}/v2/models/toy/infer", clients=2)
        await load.run(asyncio.sleep(seconds))
        return load

    usual = asyncio.run(ask(5))
    root.rename(root.with_name("away"))
    root.write_text("a file, so that nothing can be written below")
    away = asyncio.run(ask(10))
    root.unlink()
    root.with_name("away").rename(root)
    answered = 0
    for load in (usual, away):
        assert all(told.startswith("200") for told in load.told), load.told
        answered += sum(load.told.values())
    ends = time.monotonic() + 90
    while read_counts(settings, "app")["toy"]["answered"] < before + answered and time.monotonic() < ends:
        time.sleep(1.0)
    assert read_counts(settings, "app")["toy"]["answered"] == before + answered


def test_a_cluster_that_is_killed_whole_is_told_of_by_the_next_one(tmp_path: pathlib.Path) -> None:
    settings = find_settings(tmp_path)
    spec = make_spec(register_doubler(tmp_path, settings))
    first = Served(tmp_path, spec)
    load = Load(f"{first.url}/v2/models/toy/infer", clients=4)

    async def kill() -> None:
        await asyncio.sleep(7)
        head = psutil.Process(first.process.pid)
        for process in [*head.children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    asyncio.run(load.run(kill()))
    first.stop()
    answered = sum(count for told, count in load.told.items() if told.startswith("200"))
    second = Served(tmp_path, spec)
    try:
        ends = time.monotonic() + 90
        while count_answered(settings) < answered and time.monotonic() < ends:
            time.sleep(1.0)
    finally:
        second.stop()
    found = read_counts(settings, "app")["toy"]
    assert answered <= found["answered"] <= answered + load.clients, (found, load.told)
    assert 0 < found["lost"] == count_losses(settings, "app")
    assert found["rows"] > 0


def count_answered(settings: Settings) -> int:
    return read_counts(settings, "app").get("toy", {"answered": 0})["answered"]
