"""Writers of one record, as processes of their own: killed, or stopped for longer than their lease."""

import concurrent.futures
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import pytest

from raymlops.settings import Settings
from raymlops.tracking import lease, store
from tests.conftest import settings_in

SCRIPT = pathlib.Path(__file__).parents[2] / "stopped_writers.py"


def run_cases(home: pathlib.Path, *stops: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What was done and found in each case of the script."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(home), *stops], capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("CASE ", "LOOK "))]
    told = [json.loads(line[5:]) for line in lines]
    assert len(told) == 2 * len(stops), done.stdout
    return list(zip(told[::2], told[1::2], strict=True))


def require_whole(case: dict[str, Any], found: dict[str, Any]) -> None:
    """Whatever happened, the record holds, the alias is where it says, and all who were told of success are on it."""
    assert found["problems"] == [], (case, found)
    assert case["second"] == 0, case
    moves = [version for action, version in found["entries"] if action == "promote"]
    assert found["alias"] == moves[-1], (case, found)
    assert moves.count("3") == 1, (case, found)
    if not case["killed"]:
        assert (case["late"], moves.count("2")) == (0, 1), (case, found)


@pytest.mark.slow
def test_the_next_writer_finishes_what_a_killed_one_began_and_a_late_one_changes_nothing(
    tmp_path: pathlib.Path,
) -> None:
    # Killed when the entry is there and its head is not; stopped when the alias alone is left to be moved.
    (killed, found), (stopped, late) = run_cases(tmp_path, "KILL6", "STOP8")
    assert (killed["killed"], stopped["stopped"]) == (True, True)
    require_whole(killed, found)
    assert found["entries"] == [["promote", "1"], ["promote", "2"], ["repair", ""], ["promote", "3"]]
    require_whole(stopped, late)
    assert late["alias"] == "3"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("home"))


@pytest.fixture
def model(settings: Settings, request: pytest.FixtureRequest) -> str:
    store.connect(settings).create_registered_model(request.node.name)
    return str(request.node.name)


@pytest.mark.slow
def test_one_writer_at_a_time_and_each_with_a_greater_number(settings: Settings, model: str) -> None:
    client = store.connect(settings)
    inside, numbers, crowded = [0], list[int](), list[int]()

    def write(_: int) -> None:
        with lease.hold(client, model) as held:
            inside[0] += 1
            crowded.append(inside[0])
            time.sleep(0.02)
            held.check()
            numbers.append(held.number)
            inside[0] -= 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    assert set(crowded) == {1}
    assert numbers == sorted(set(numbers))
    left = [key for key in client.get_registered_model(model).tags if key.startswith(lease.ANNOUNCED)]
    assert left == []


def test_a_lease_that_another_took_over_is_refused(
    settings: Settings, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.3)
    monkeypatch.setattr(lease, "RENEWAL_S", 600.0)
    client = store.connect(settings)
    with lease.hold(client, model) as stopped:
        stopped.check()
        with lease.hold(client, model) as next_one:
            assert next_one.number > stopped.number
            assert stopped.number in next_one.dead
            next_one.check()
            with pytest.raises(lease.LeaseLostError, match="has taken over"):
                stopped.check()


@pytest.mark.slow
def test_a_lease_that_is_renewed_is_waited_for_however_the_clock_of_the_wall_jumps(
    settings: Settings, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    monkeypatch.setattr(lease, "RENEWAL_S", 0.1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    client = store.connect(settings)
    order = list[str]()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with lease.hold(client, model) as held:

            def wait() -> None:
                with lease.hold(client, model):
                    order.append("second")

            waiting = pool.submit(wait)
            time.sleep(4.0)
            held.check()
            order.append("first")
        waiting.result()
    assert order == ["first", "second"]


def test_forged_leases_and_announcements_stop_nobody_for_long(
    settings: Settings, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.3)
    client = store.connect(settings)
    for key in ("999999999999999999.ab", "x.y", "000000000003.zz", f"{'9' * 200}.aa"):
        client.set_registered_model_tag(model, lease.GRANTED + key, "")
    for value in ("", "{}", '{"ticket": -5}', '{"ticket": "1"}', '{"ticket": 1e300}', "null"):
        client.set_registered_model_tag(model, f"{lease.ANNOUNCED}{abs(hash(value))}", value)
    with lease.hold(client, model, floor=7) as held:
        held.check()
        assert held.number == 8
