"""`raymlops notify` as people type it, against a real receiver."""

import json
import pathlib

import pytest
from click.testing import CliRunner

import raymlops
from raymlops.cli.notify import notify
from raymlops.events.event import Event
from raymlops.events.notify_file import open_notifier
from raymlops.settings import Settings
from tests.webhook_receiver import receive


def test_the_command_says_what_each_channel_needs_and_how_it_took_a_test(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMLOPS_HOME", str(tmp_path))
    monkeypatch.delenv("RAYMLOPS_NOTIFY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "There is no notify.yaml" in CliRunner().invoke(notify, ["check"]).output
    with receive(204, 500) as receiver:
        (tmp_path / "notify.yaml").write_text(
            "channels:\n"
            f"  hook: {{kind: webhook, url: '{receiver.url}', secret_env: HOOK_KEY}}\n"
            "  idle: {kind: log}\n"
            "routes: [{to: hook, severity: page, types: 'raymlops.alarm.*'}]\n"
        )
        checked = CliRunner().invoke(notify, ["check"])
        assert checked.exit_code == 2
        assert "HOOK_KEY, which notify.yaml names, is not set" in checked.output
        assert "raymlops.alarm.raised (pages only)" in checked.output
        assert "no route leads to it" in checked.output
        monkeypatch.setenv("HOOK_KEY", "k")
        done = CliRunner().invoke(notify, ["test", "--channel", "hook"])
        assert (done.exit_code, receiver.taken[0]["type"]) == (0, "raymlops.notify.test")
        failed = CliRunner().invoke(notify, ["test", "--channel", "hook", "--json"])
        assert failed.exit_code == 1
        assert json.loads(failed.output)[0]["problem"].endswith("answered with status 500")
        assert [one.problem for one in raymlops.try_notify("hook")] == [""]
        unknown = CliRunner().invoke(notify, ["test", "--channel", "hok"])
        assert "did you mean 'hook'" in str(unknown.exception)


def test_what_waits_is_shown_and_sent(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMLOPS_HOME", str(tmp_path))
    monkeypatch.delenv("RAYMLOPS_NOTIFY", raising=False)
    monkeypatch.chdir(tmp_path)
    with receive(503) as receiver:
        (tmp_path / "notify.yaml").write_text(
            f"channels: {{hook: {{kind: webhook, url: '{receiver.url}'}}}}\n"
        )
        notifier = open_notifier(Settings.from_env(), tmp_path)
        notifier.emit(Event("raymlops.alarm.raised", "app", "app/1", "score moved"))
        assert not notifier.close(30)
        assert "1 wait, the oldest since" in CliRunner().invoke(notify, ["check"]).output
        sent = CliRunner().invoke(notify, ["send"])
        assert (sent.exit_code, sent.output) == (0, "Nothing waits.\n")
        assert [one["subject"] for one in receiver.taken] == ["app/1"]
