"""A wrong notify.yaml gets a sentence with its line, and never shows what may be a secret."""

import pathlib

import pytest

from raymlops.errors import NotFoundError, SpecError
from raymlops.events.notify_file import find_notify, read_notify
from raymlops.settings import Settings
from raymlops.specs.document import parse_document
from raymlops.specs.notify import NotifySpec

ROOT = pathlib.Path(__file__).parents[3]
HOOK = "channels:\n  oncall:\n    kind: webhook\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("routes: []", "key 'channels' is missing"),
        ("channels: {}", "at least 1 item"),
        ("channels:\n  a: {kind: slack}", "text:2: channels.a: Unknown kind 'slack'"),
        ("channels:\n  a: {kind: weblog}", "did you mean 'log'"),
        ("channels: {Oncall!: {kind: log}}", "the name 'Oncall!' is not of lower-case letters"),
        (HOOK + "    url: https://x.org\n    secret: s", "Unknown key 'secret'; did you mean 'secret_env'"),
        (HOOK, "text:2: channels.oncall: give one of url and url_env"),
        (HOOK + "    url: ftp://x.org", "text:4: channels.oncall.url: expected an http:// or https:// URL"),
        (HOOK + "    url: https://x.org\n    timeout_s: 0", "timeout_s: Input should be greater than 0"),
        ("channels:\n  f: {kind: file, path: events.jsonl}", "the path must be absolute"),
        ("channels:\n  m: {kind: mail, host: h, sender: a@b, to: [ann]}", "'ann' is no mail address"),
        ("channels:\n  m: {kind: mail, host: h, sender: a@b, to: c@d, user: ann}", "give both user and password_env"),
        ("channels: {a: {kind: log}}\nroutes: [{to: b}]", "Unknown channel 'b'"),
        ("channels: {a: {kind: log}}\nroutes: [{to: a, severity: loud}]", "'page' or 'note'"),
        ("channels: {a: {kind: Slack, url: x}}", "Unknown kind 'Slack'; it is reached with kind: apprise"),
        ("channels: {a: {kind: email}}", "write kind: mail"),
        ("channels: {a: {kind: log}}\nroutes: [{to: a, typ: x}]", "did you mean 'types'"),
        ("channels: {a: {kind: log}}\nroutes: [{}]", "key 'routes.0.to' is missing"),
        ("channels: {a: {kind: log}}\nfold: {window: 3}", "did you mean 'window_s'"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(text: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_document(text, NotifySpec)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hidden", "line"),
    [
        (HOOK + "    url: https://x.org\n    secret_env: s3cr3t-of-mine", "s3cr3t", 5),
        (HOOK + "    url: https://x.org\n    secret_env: AKIAIOSFODNN7EXAMPLE", "AKIA", 5),
        (HOOK + "    url: https://ann:hunter22@x.org/hook", "hunter22", 4),
        (HOOK + "    url: https://hooks.slack.com/services/T00000000/B00000000/aBcDeFgHiJkLmNoPqRsTuVwX", "aBcDeF", 4),
        (HOOK + "    url: https://x.webhook.office.com/webhookb2/a1b2c3d4-0000-4000-8000-000000000000@x", "a1b2c3", 4),
        (HOOK + "    url: https://x.org/hook?token=quiet", "quiet", 4),
        ("channels:\n  chat:\n    kind: apprise\n    url_env: slack://TokenA/TokenB/TokenC", "TokenA", 4),
        ("channels:\n  a: {kind: log}\n  m:\n    kind: mail\n    password_env: [hunter22]", "hunter22", 5),
        ("channels:\n  a-b2:\n    kind: mail\n    password: hunter22\n    host: h", "hunter22", 4),
        ("channels:\n  m:\n    kind: mail\n    host: smtp://u:hunter22@h", "hunter22", 4),
    ],
)  # fmt: skip
def test_a_secret_in_the_file_is_refused_with_its_line_and_not_repeated(
    text: str, hidden: str, line: int
) -> None:
    with pytest.raises(SpecError) as caught:
        parse_document(text, NotifySpec)
    assert hidden not in str(caught.value)
    assert f"text:{line}:" in str(caught.value)
    assert "environment variable" in str(caught.value) or "password_env" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://events.pagerduty.com/v2/enqueue",
        "https://x.org/hooks/data-team-production-2026?room=ml-platform",
    ],
)
def test_a_url_of_words_is_no_secret(url: str) -> None:
    parse_document(f"channels: {{a: {{kind: webhook, url: '{url}'}}}}", NotifySpec)


def test_the_example_is_valid_and_a_dumped_spec_is_read_again() -> None:
    spec = read_notify(ROOT / "examples/notify.yaml")
    assert set(spec.channels) == {"log", "events", "oncall", "team", "chat"}
    assert NotifySpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_filter_that_no_event_can_match_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "notify.yaml"
    path.write_text("channels: {a: {kind: log}}\nroutes: [{to: a, types: raymlops.alarms.*}]")
    with pytest.raises(SpecError, match=r"routes\.0\.types: no event has a type like 'raymlops\.alarms\.\*'"):
        read_notify(path)
    path.write_text("channels: {a: {kind: log}}\nroutes: [{to: a, families: [score, operatons]}]")
    with pytest.raises(
        SpecError, match=r"routes\.0\.families: no alarm is of a family like 'operatons'; .*operations"
    ):
        read_notify(path)


def test_the_variable_comes_before_the_folder_of_the_spec_and_that_before_the_home(
    tmp_path: pathlib.Path,
) -> None:
    home, beside, named = tmp_path / "home", tmp_path / "beside", tmp_path / "mine.yaml"
    environment = {"RAYMLOPS_HOME": str(home)}
    assert find_notify(Settings.from_env(environment), beside) is None
    for folder in (home, beside):
        folder.mkdir()
        (folder / "notify.yaml").write_text("channels: {a: {kind: log}}")
    assert find_notify(Settings.from_env(environment)) == home / "notify.yaml"
    assert find_notify(Settings.from_env(environment), beside) == beside / "notify.yaml"
    variable = Settings.from_env({**environment, "RAYMLOPS_NOTIFY": str(named)})
    with pytest.raises(NotFoundError, match="RAYMLOPS_NOTIFY names"):
        find_notify(variable, beside)
    named.write_text("channels: {a: {kind: log}}")
    assert find_notify(variable, beside) == named
