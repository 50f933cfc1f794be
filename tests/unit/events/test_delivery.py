"""Events arrive though receivers fail, hang or are away and processes are killed; repeats arrive as one."""

import base64
import dataclasses
import hashlib
import hmac
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from raymlops.events.delivery import Notifier
from raymlops.events.event import Event
from raymlops.events.spool import Spool, find_due
from raymlops.events.spool_storage import SpoolFolder, SpoolMemory, SpoolStorage
from raymlops.specs.document import validate_document
from raymlops.specs.notify import Folding, NotifySpec, Spooling
from tests.webhook_receiver import receive

KEY = "a key of the test"


def alarm(number: int = 1, **given: Any) -> Event:
    facts = {"what": f"score moved in {number}", "next": f"raymlops alarms show app/{number}", **given}
    return Event("raymlops.alarm.raised", "app", f"app/{number}", **facts)


def spec_for(url: str, **given: Any) -> NotifySpec:
    hook = {"kind": "webhook", "url": url, "secret_env": "HOOK_KEY", "timeout_s": 0.5}
    return validate_document({"channels": {"hook": hook}, "fold": {"gather_s": 0}, **given}, NotifySpec)


def open_notifier(spec: NotifySpec, folder: pathlib.Path) -> Notifier:
    return Notifier(spec, folder, {"HOOK_KEY": KEY})


def test_a_webhook_is_signed_and_what_failed_or_hung_is_sent_again_under_the_same_id(
    tmp_path: pathlib.Path,
) -> None:
    with receive(500, "hang", 204) as receiver:
        notifier = open_notifier(spec_for(receiver.url), tmp_path)
        started = time.monotonic()
        notifier.emit(alarm(severity="page", numbers={"mean": 0.33}))
        assert time.monotonic() - started < 5  # nobody waits for the receiver, which hangs for half a minute
        (document,) = receiver.wait(1)
        notifier.close()
    assert document["type"] == "raymlops.alarm.raised"
    assert document["data"]["numbers"] == {"mean": 0.33}
    assert {json.loads(body)["id"] for body in receiver.bodies} == {document["id"]}
    for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
        assert headers["content-type"].startswith("application/cloudevents+json")
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        made = base64.b64encode(hmac.new(KEY.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{made}"


def test_a_receiver_that_refuses_one_message_gets_the_next_and_the_refused_one_is_kept(
    tmp_path: pathlib.Path,
) -> None:
    with receive(422) as receiver:
        notifier = open_notifier(spec_for(receiver.url), tmp_path)
        notifier.emit(alarm(1))
        notifier.emit(alarm(2))
        (document,) = receiver.wait(1)
        notifier.close()
    assert document["subject"] == "app/2"
    assert len(list((tmp_path / "hook/refused").iterdir())) == 1


def test_a_thousand_equal_events_are_one_message_with_a_count_and_others_are_not_joined_to_it(
    tmp_path: pathlib.Path,
) -> None:
    with receive() as receiver:
        notifier = open_notifier(spec_for(receiver.url, fold={"gather_s": 600}), tmp_path)
        for _ in range(1000):
            notifier.emit(alarm())
        notifier.emit(alarm(2))
        assert notifier.close(60)  # does not wait for more repeats
        found = {one["subject"]: one["data"]["count"] for one in receiver.wait(2)}
    assert found == {"app/1": 1000, "app/2": 1}


def test_an_event_that_is_emitted_again_is_not_told_twice(tmp_path: pathlib.Path) -> None:
    with receive() as receiver:
        for _ in range(2):  # as after a restart
            notifier = open_notifier(spec_for(receiver.url), tmp_path)
            notifier.emit(alarm(id="app/1/1"))
            notifier.emit(alarm(id="app/1/1"))
            assert notifier.close(30)
        assert [one["data"]["count"] for one in receiver.taken] == [1]


EMITTER = """
import pathlib, sys, time
from raymlops.events.delivery import Notifier
from raymlops.events.event import Event
from raymlops.specs.document import parse_document
from raymlops.specs.notify import NotifySpec

spec = parse_document(sys.argv[1], NotifySpec)
notifier = Notifier(spec, pathlib.Path(sys.argv[2]), {"HOOK_KEY": "k"})
first, last, rest = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
for number in range(first, last):
    notifier.emit(Event("raymlops.alarm.raised", "app", f"app/{number}", "score moved"))
print("emitted", flush=True)
time.sleep(60) if rest == "sleep" else notifier.close(60)
"""


def start_emitter(spec: NotifySpec, folder: pathlib.Path, first: int, last: int, rest: str) -> Any:
    arguments = [json.dumps(spec.model_dump(mode="json")), str(folder), str(first), str(last), rest]
    return subprocess.Popen(
        [sys.executable, "-c", EMITTER, *arguments], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def test_a_killed_process_loses_nothing_and_two_processes_on_one_spool_send_nothing_twice(
    tmp_path: pathlib.Path,
) -> None:
    with receive() as receiver:
        away = spec_for("http://127.0.0.1:9/")  # where nobody listens
        killed = start_emitter(away, tmp_path, 0, 40, "sleep")
        assert killed.stdout.readline() == "emitted\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        spec = spec_for(receiver.url)
        both = [start_emitter(spec, tmp_path, first, first + 40, "close") for first in (40, 80)]
        assert [one.wait(120) for one in both] == [0, 0]
        found = sorted(int(one["subject"].removeprefix("app/")) for one in receiver.wait(120))
    assert found == list(range(120))


def test_a_full_spool_drops_the_oldest_notes_before_pages_and_says_how_many(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    for storage in (SpoolFolder(tmp_path), SpoolMemory()):
        caplog.clear()
        spool = Spool(storage, Spooling(messages=3), Folding(gather_s=0))
        spool.put(alarm(0, severity="page"), 100.0)
        for number in range(1, 6):
            spool.put(alarm(number), 100.0 + number)
        found = take_all(spool, 200.0)
        assert [(one.event.subject, one.dropped) for one in found] == [
            ("app/0", 3),
            ("app/4", 0),
            ("app/5", 0),
        ]
        assert "dropped, since more than 3 messages wait: score moved in 1" in caplog.text


def test_messages_that_are_too_old_are_dropped_and_counted(tmp_path: pathlib.Path) -> None:
    spool = Spool(SpoolFolder(tmp_path), Spooling(hours=1), Folding(gather_s=0))
    spool.put(alarm(1), 0.0)
    spool.put(alarm(2), 3000.0)
    assert [(one.event.subject, one.dropped) for one in take_all(spool, 3700.0)] == [("app/2", 1)]


def take_all(spool: Spool, at: float) -> list[Any]:
    found = []
    while (taken := spool.take(at)[0]) is not None:
        found.append(taken.message)
        spool.finish(taken, at)
    return found


@pytest.mark.parametrize("storage", ["folder", "memory"])
def test_repeats_within_the_window_wait_for_its_end(storage: str, tmp_path: pathlib.Path) -> None:
    kept: SpoolStorage = SpoolFolder(tmp_path) if storage == "folder" else SpoolMemory()
    spool = Spool(kept, Spooling(), Folding(gather_s=2, window_s=300))
    spool.put(alarm(), 1000.0)
    assert take_all(spool, 1001.0) == []
    assert [one.count for one in take_all(spool, 1002.0)] == [1]
    for second in range(10, 250, 10):
        spool.put(alarm(), 1000.0 + second)
        assert take_all(spool, 1000.0 + second + 5) == []
    assert [one.count for one in take_all(spool, 1302.0)] == [24]


def test_a_clock_that_is_set_back_holds_no_message_back() -> None:
    fold = Folding(gather_s=2, window_s=300)
    assert find_due(queued=9000.0, sent=8990.0, at=1000.0, fold=fold) == 1002.0
    assert find_due(queued=1000.0, sent=990.0, at=1000.0, fold=fold) == 1290.0


def test_a_message_that_a_receiver_cannot_handle_does_not_keep_the_others_waiting(
    tmp_path: pathlib.Path,
) -> None:
    spool = Spool(SpoolFolder(tmp_path), Spooling(), Folding(gather_s=0))
    spool.put(alarm(1), 100.0)
    spool.put(alarm(2), 101.0)
    taken, _ = spool.take(102.0)
    assert taken is not None
    spool.put_back(taken, 102.0)
    assert [one.event.subject for one in take_all(spool, 103.0)] == ["app/2", "app/1"]


def test_damaged_files_in_a_spool_are_put_aside(tmp_path: pathlib.Path) -> None:
    spool = Spool(SpoolFolder(tmp_path), Spooling(), Folding(gather_s=0))
    spool.put(alarm(1), 100.0)
    (tmp_path / "pending/000000000000001-page-abc.json").write_text("{half of a fi")
    (tmp_path / "pending/README").write_text("whose is this?")
    (tmp_path / "delivered.json").write_text("[]")
    assert [one.event.subject for one in take_all(spool, 103.0)] == ["app/1"]
    assert spool.count().refused == 1


def test_a_process_that_stopped_while_it_wrote_holds_nobody_back(tmp_path: pathlib.Path) -> None:
    with receive() as receiver:
        notifier = open_notifier(spec_for(receiver.url), tmp_path)
        with SpoolFolder(tmp_path / "hook").lock():  # as a stopped process holds it
            notifier.emit(alarm(1))
            notifier.emit(alarm(2))
            assert len(receiver.wait(2)) == 2  # from memory
        notifier.close()


def test_what_was_delivered_is_not_sent_again_though_the_disk_filled_meanwhile(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(SpoolFolder(tmp_path), Spooling(), Folding(gather_s=0))
    spool.put(alarm(1), 100.0)

    def write(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SpoolFolder, "write", write)
    assert [len(take_all(spool, 101.0 + second)) for second in range(3)] == [1, 0, 0]


def test_a_disk_that_takes_nothing_leaves_messages_in_memory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SpoolFolder, "write", write)
    with receive() as receiver:
        notifier = open_notifier(spec_for(receiver.url), tmp_path)
        notifier.emit(alarm())
        assert len(receiver.wait(1)) == 1
        notifier.close()


def test_a_variable_that_is_not_set_keeps_messages_until_a_process_has_it(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receive() as receiver:
        spec = spec_for(receiver.url)
        notifier = Notifier(spec, tmp_path, {})
        notifier.emit(alarm())
        assert not notifier.close(10)
        assert "HOOK_KEY, which notify.yaml names, is not set" in caplog.text
        notifier = open_notifier(spec, tmp_path)
        assert receiver.wait(1)
        notifier.close()


def test_routes_choose_channels_by_type_severity_model_version_segment_and_family(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    spec = validate_document(
        {
            "channels": {
                "log": {"kind": "log"},
                **{
                    name: {"kind": "file", "path": str(tmp_path / name)}
                    for name in ("pages", "jfk", "all", "sre")
                },
            },
            "routes": [
                {"to": "all"},
                {"to": ["pages", "log"], "severity": "page", "types": "raymlops.alarm.*"},
                {"to": "sre", "families": "operations"},
                {"to": ["jfk", "all"], "models": "flights", "versions": [4], "segments": "*JFK*"},
            ],
            "fold": {"gather_s": 0},
        },
        NotifySpec,
    )
    notifier = Notifier(spec, tmp_path / "spool", {})
    notifier.emit(alarm(1, severity="page"))
    notifier.emit(alarm(2, model="flights", version="4", segment="origin=JFK"))
    notifier.emit(alarm(3, model="flights", version="40", segment="origin=JFK"))
    notifier.emit(alarm(4, details={"family": "operations", "severity": "note"}))
    for number, severity in ((5, "page"), (6, "note")):
        details = {"family": "score", "severity": severity}
        notifier.emit(dataclasses.replace(alarm(number, details=details), type="raymlops.alarm.closed"))
    assert notifier.close(30)
    found = {
        # sorted: a busy disk makes a message wait in memory, and others overtake it
        name: sorted(json.loads(line)["subject"] for line in (tmp_path / name).read_text().splitlines())
        for name in ("pages", "jfk", "all", "sre")
    }
    assert found == {
        "pages": ["app/1", "app/5"],  # it was woken, and is told that it is over
        "jfk": ["app/2"],
        "all": [f"app/{number}" for number in range(1, 7)],
        "sre": ["app/4"],
    }
    assert (
        "PAGE app/1: score moved in 1 [raymlops.alarm.raised] Next: raymlops alarms show app/1" in caplog.text
    )
    assert "app/2" not in caplog.text
