import json
import pathlib
import threading

import pytest

from raymlops.tracking import write_behind_queue
from raymlops.tracking.write_behind_queue import Operation, WriteBehindQueue


class Store:
    """A tracking store that can be out of reach."""

    def __init__(self) -> None:
        self.reachable = True
        self.got: list[Operation] = []
        self.calls = 0
        self.tried = threading.Event()

    def send(self, operations: list[Operation]) -> None:
        self.tried.set()
        if not self.reachable:
            raise ConnectionError("no route to host")
        self.got.extend(operations)
        self.calls += 1


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_behind_queue.time, "sleep", lambda seconds: threading.Event().wait(0.001))
    monkeypatch.setattr(write_behind_queue, "_GATHERING", 0.0)


def numbered(count: int) -> list[Operation]:
    return [{"kind": "report", "trial": "t", "step": step} for step in range(count)]


def test_operations_are_sent_in_order_and_each_once(tmp_path: pathlib.Path) -> None:
    store, said = Store(), list[str]()
    writer = WriteBehindQueue(store.send, tmp_path / "spool.jsonl", said.append)
    for operation in numbered(200):
        writer.add(operation)
    assert writer.close() == 0
    assert store.got == numbered(200)
    assert (writer.sent, said, list(tmp_path.iterdir())) == (200, [], [])


def test_reports_of_a_trial_go_together_and_never_past_its_other_operations(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind_queue, "_GATHERING", 60.0)
    store = Store()
    writer = WriteBehindQueue(store.send, tmp_path / "spool.jsonl", print)
    kinds = ("start", "report", "report", "end")
    told = [{"kind": kind, "trial": trial, "turn": turn} for turn, kind in enumerate(kinds) for trial in "ab"]
    for operation in told:
        writer.add(operation)
    assert writer.close() == 0
    assert store.calls == 6
    for trial in "ab":
        assert [one for one in store.got if one["trial"] == trial] == [
            one for one in told if one["trial"] == trial
        ]


def test_a_store_that_comes_back_gets_all_that_waited(tmp_path: pathlib.Path) -> None:
    store, said = Store(), list[str]()
    store.reachable = False
    writer = WriteBehindQueue(store.send, tmp_path / "deep" / "spool.jsonl", said.append)
    for operation in numbered(5):
        writer.add(operation)
    assert store.tried.wait(10)
    for operation in numbered(10)[5:]:
        writer.add(operation)
    store.reachable = True
    assert writer.close() == 0
    assert store.got == numbered(10)
    assert not (tmp_path / "deep" / "spool.jsonl").exists()
    assert "does not answer (no route to host)" in said[0]
    assert "answers again" in said[-1]


def test_what_could_not_be_sent_stays_in_the_file(tmp_path: pathlib.Path) -> None:
    store, said = Store(), list[str]()
    store.reachable = False
    spool = tmp_path / "spool.jsonl"
    writer = WriteBehindQueue(store.send, spool, said.append)
    writer.add(numbered(1)[0])
    assert store.tried.wait(10)
    while not said:  # until the trouble has been noticed, which the other thread does
        store.tried.wait(0.01)
    for operation in numbered(6)[1:]:
        writer.add(operation)
    assert writer.close(patience=0.2) == 6
    assert [json.loads(line) for line in spool.read_text().splitlines()] == numbered(6)
    assert f"6 tracking operations were not sent; they are kept in {spool}" in said[-1]


def test_an_empty_journal_closes_at_once(tmp_path: pathlib.Path) -> None:
    assert WriteBehindQueue(Store().send, tmp_path / "spool.jsonl", print).close() == 0
