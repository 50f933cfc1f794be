"""`raymlops monitor` reads what was counted, judged and raised, and says how an application is."""

import contextlib
import datetime
import json
import os
import pathlib
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner, Result

import raymlops
from raymlops.cli.monitor import monitor
from raymlops.errors import NotFoundError
from raymlops.monitoring.reference import Reference, make_reference
from raymlops.monitoring.tick_store import TickStore, find_root
from raymlops.monitoring.ticks import NO_LATENCY, Loss, Place, Tick, no_counts
from raymlops.runtime.application_judge import ApplicationJudge
from raymlops.settings import Settings

ROWS = 200
MINUTES = 30


def run(*arguments: str) -> Result:
    return CliRunner().invoke(monitor, list(arguments))


def make_rows(rows: int, random: np.random.Generator, shift: float) -> dict[str, np.ndarray]:
    temp = random.normal(shift, 1, rows)
    return {"temp": temp, "wind": random.normal(0, 1, rows), "p": 1 / (1 + np.exp(-temp))}


def write_ticks(store: TickStore, reference: Reference, digest: str, changed: bool, until: int) -> None:
    """Half an hour of `flights` v4, of which the last 10 minutes change, a shadow, and a file without a reference."""
    random = np.random.default_rng(0)
    latency = list(NO_LATENCY)
    latency[20] = ROWS
    by_day: dict[str, list[Tick]] = {}
    for minute in range(MINUTES, 0, -1):
        start = until - 60 * minute
        counts = reference.count(make_rows(ROWS, random, 2.0 if changed and minute <= 10 else 0.0))
        day = datetime.datetime.fromtimestamp(start, datetime.UTC).date().isoformat()
        for place in (
            Place("flights", "endpoint", "flights", "4", digest), Place("a/b", "shadow", "flights", "4", digest),
            Place("file", "endpoint", "file", "1", ""),
        ):  # fmt: skip
            tick = Tick(
                place, start, 60, counts if place.reference else no_counts(), rows=ROWS if place.reference else 0,
                answered=ROWS + 1, lost=1, requests={"2xx": ROWS - 2, "5xx": 2}, latency=tuple(latency),
                first=float(start), last=start + 59.0,
            )  # fmt: skip
            by_day.setdefault(day, []).append(tick)
    for day, ticks in by_day.items():
        store.write(day, ticks, {})


@pytest.fixture(scope="module", autouse=True)
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAYMLOPS_STORAGE", "RAYMLOPS_NOTIFY"):
            patch.delenv(name, raising=False)
        patch.setenv("RAYMLOPS_HOME", str(tmp_path_factory.mktemp("home")))
        held = Settings.from_env()
        fill(held, "shop", changed=False)
        yield held


def fill(settings: Settings, application: str, *, changed: bool) -> TickStore:
    store = TickStore(find_root(settings.storage_path), application)
    reference = make_reference(make_rows(2000, np.random.default_rng(1), 0.0), {"p": "score"})
    digest = store.write_reference(reference.to_bytes())
    silent = {"role": "canary", "model": "flights", "version": "5", "reference": digest}
    store.write_settings({"false_alarms_per_month": 1.0, "watched": {"a/new": silent}})
    write_ticks(store, reference, digest, changed, int(time.time()) // 60 * 60)
    return store


def test_an_application_is_shown_once_as_json_as_a_page_and_by_exit_code(
    settings: Settings, tmp_path: pathlib.Path
) -> None:
    store = fill(settings, "hot", changed=True)
    before = run("hot", "--json")
    assert before.exit_code == 1  # the judge has found it, and has not raised it yet
    assert "No alarm was raised of it yet." in json.loads(before.output)["sentence"]
    ApplicationJudge("hot", settings).run()
    store.write_loss(Loss("replica-1", "node-3f", time.time() - 60, None, 100))

    page = tmp_path / "health.html"
    written = run("hot", "--html", str(page))
    assert (written.exit_code, f"Page    {page}" in written.output) == (1, True)
    document = page.read_text()
    for part in ("flights v4 (shadow at a/b)", "it has no reference", "raymlops alarms show hot/1", "temp"):
        assert part in document
    assert [path.name for path in tmp_path.iterdir()] == ["health.html"]

    shown = run("hot")
    assert (shown.exit_code, "PAGE  hot/1" in shown.output) == (1, True)
    assert "Of lost nodes nobody knows the last counts: node-3f." in " ".join(shown.output.split())

    health = raymlops.monitor("hot", model="flights")
    first, shadow, silent = health.models
    assert (first.role, shadow.role, silent.role, silent.rows) == ("endpoint", "shadow", "canary", 0)
    assert first.rows == ROWS * MINUTES
    assert {one.shares.column.name for one in first.differing} == {"temp", "p"}
    requests = first.traffic.requests, first.traffic.failed, first.traffic.lost
    assert requests == (ROWS * MINUTES, 2 * MINUTES, MINUTES)


def test_a_well_application_gives_0_and_without_rows_it_is_not_called_well() -> None:
    assert run("shop", "--once").exit_code == 0
    assert raymlops.monitor("shop", model="flights").state == "well"
    silent = raymlops.monitor("shop", model="a/new")
    assert silent.state == "unknown"
    assert silent.describe().startswith("No rows were counted in this period")


def test_what_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'shop'"):
        raymlops.monitor("shp")
    with pytest.raises(NotFoundError, match="did you mean 'flights'"):
        raymlops.monitor("shop", model="flihgts")
    for arguments, sentence in (
        (["shop", "--every", "1h", "--json"], "--once and --json look once"),
        (["shop", "--last", "soon"], "is not of the form"),
        ([], "there are counts or alarms of: "),
    ):
        refused = run(*arguments)
        assert (refused.exit_code, sentence in refused.output) == (2, True)
    refused = run("shop", "--html", str(tmp_path / "no" / "health.html"))
    assert "cannot be written" in str(refused.exception)


def test_the_live_view_ends_with_q() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "raymlops", "monitor", "shop", "--every", "60s"],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"q ends" not in seen:
        assert select.select([ours], [], [], 120)[0], seen
        seen += os.read(ours, 65536)
    assert b"shop" in seen
    os.write(ours, b"q")
    with contextlib.suppress(OSError):  # what a terminal that was closed gives
        while os.read(ours, 65536):  # so that it does not wait for a reader
            pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
