"""`raymlops alarms` as people and scripts type it."""

import datetime
import json
import pathlib

import pytest
from click.testing import CliRunner, Result

import raymlops
from raymlops.cli.alarms import alarms
from raymlops.events.incident import Alarm, Cause, Watched
from raymlops.events.incidents import Incidents, find_location
from raymlops.settings import Settings

WATCHED = Watched("flights", "4", "score", "origin=JFK")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(alarms, list(arguments))


def test_alarms_are_listed_shown_acknowledged_silenced_and_closed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMLOPS_HOME", str(tmp_path))
    monkeypatch.setenv("RAYMLOPS_USER", "ann")
    for name in ("RAYMLOPS_NOTIFY", "RAYMLOPS_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notify.yaml").write_text(f"channels: {{told: {{kind: file, path: {tmp_path}/told}}}}\n")
    assert (run().exit_code, run("--open").output) == (0, "No alarm is open.\n")

    alarm = Alarm(
        WATCHED, "flights v4: score moved", "page", at=datetime.datetime.now(datetime.UTC), rows=3100,
        columns=("temp",), causes=(Cause("temp", 0.97),), damage="Estimated AUC 0.62, was 0.75",
    )  # fmt: skip
    Incidents(find_location(Settings.from_env()), "app").raise_or_update(alarm)
    listed = run("--open")
    assert (listed.exit_code, listed.output.split()[:3]) == (1, ["app/1", "open", "PAGE"])
    shown = run("show", "app/1").output
    for line in (
        "rows       3,100",
        "cause 1    temp 97% of the change",
        "damage     Estimated AUC 0.62, was 0.75",
    ):
        assert line in shown
    assert json.loads(run("--json").output)[0]["columns"] == ["temp"]
    assert [one.id for one in raymlops.alarms(only_open=True)] == ["app/1"]

    assert run("ack", "app/1", "--why", "I look at it").exit_code == 0
    assert run().exit_code == 1  # still open
    assert run("silence", "app/1", "--for", "2h").exit_code == 0
    assert (run().exit_code, run().output.split()[1]) == (0, "silenced")
    assert run("close", "app/1", "--why", "the feed is mended").exit_code == 0
    assert (run("--open").exit_code, run("--open").output) == (0, "No alarm is open.\n")
    assert "closed by ann: the feed is mended" in run("show", "app/1").output
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [one["data"]["who"] for one in told] == ["ann", "ann", "ann"]
    assert told[-1]["type"] == "raymlops.alarm.closed"

    for arguments, sentence in (
        (["show", "app/9"], "Unknown alarm 'app/9'; did you mean 'app/1'?"),
        (["show", "ap/1"], "Unknown application with alarms 'ap'; did you mean 'app'?"),
        (["ack", "7", "--why", "x"], "'7' is no id of an alarm, such as flights/231"),
        (["ack", "app/1", "--why", "x"], "The alarm app/1 is closed since"),
    ):
        assert sentence in str(run(*arguments).exception)
    for options in (["--for", "soon"], ["--until", "noon"], [], ["--for", "1h", "--until", "2030-01-01"]):
        refused = run("silence", "app/1", *options)
        assert (refused.exit_code, "Error" in refused.output) == (2, True)
