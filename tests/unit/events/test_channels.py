"""Each channel against a real server: what arrives, and the sentence where it does not."""

import importlib.util
import json
import pathlib
import socket
from collections.abc import Iterator
from email import message_from_bytes, policy
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from raymlops.errors import SpecError
from raymlops.events.channels import CHANNELS, ChannelAwayError, MessageRefusedError, open_channel
from raymlops.events.channels.webhook import read_key, sign
from raymlops.events.event import Event
from raymlops.events.message import Message, start_message
from raymlops.specs.notify import Channel, NotifySpec
from tests.webhook_receiver import receive

EVENT = Event(
    "raymlops.alarm.raised", "app", "app/231", "flights v4: score moved\nfar", severity="page", who="monitoring",
    why="chance alone: once in 9 years", next="raymlops alarms show app/231", model="flights", version="4",
    segment="origin=JFK", numbers={"mean score": 0.33, "usual": 0.24},
)  # fmt: skip
MESSAGE = start_message(EVENT, 0.0)


def settings_of(**given: Any) -> Channel:
    return NotifySpec.model_validate({"channels": {"one": given}}).channels["one"]


class Mailbox:
    """A handler of aiosmtpd that refuses addresses with `nobody`, and keeps the rest."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if "nobody" in address:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope.content)
        return "250 OK"


def check_login(server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> AuthResult:
    known = isinstance(given, LoginPassword) and given.password == b"right"
    return AuthResult(success=known, handled=False)


@pytest.fixture
def mail_server() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Controller(
        box, hostname="127.0.0.1", port=port, authenticator=check_login, auth_require_tls=False
    )  # fmt: skip
    server.start()
    yield box, port
    server.stop()


def mail_settings(port: int, *to: str) -> Channel:
    return settings_of(
        kind="mail", host="127.0.0.1", port=port, tls="never", user="ann", password_env="SMTP_PASSWORD",
        sender="raymlops@example.com", to=list(to) or ["team@example.com"], timeout_s=5,
    )  # fmt: skip


def test_a_mail_has_the_sentence_the_numbers_and_the_next_command(mail_server: tuple[Mailbox, int]) -> None:
    box, port = mail_server
    channel = open_channel(mail_settings(port), {"SMTP_PASSWORD": "right"})
    channel.send(MESSAGE)
    channel.send(Message(EVENT, count=7, since="2026-01-01T00:00:00.000Z"))
    first, again = (message_from_bytes(mail, policy=policy.default) for mail in box.mails)
    assert first["subject"] == "PAGE app/231: flights v4: score moved far"
    assert again["subject"] == "PAGE app/231: flights v4: score moved far (7 times)"
    text = first.get_body().get_content()
    for line in ("mean score: 0.33", "segment: origin=JFK", "why: chance alone: once in 9 years"):
        assert line in text
    assert text.strip().endswith("Next: raymlops alarms show app/231")
    assert first["message-id"] == again["message-id"]  # of one event: mail programs show it once
    assert first["references"] == again["references"]


def test_wrong_passwords_and_silent_servers_are_tried_again_and_unknown_addresses_are_not(
    mail_server: tuple[Mailbox, int],
) -> None:
    box, port = mail_server
    with pytest.raises(ChannelAwayError, match="does not accept the user and password: 535"):
        open_channel(mail_settings(port), {"SMTP_PASSWORD": "wrong"}).send(MESSAGE)
    with pytest.raises(MessageRefusedError, match="refuses all recipients: 550"):
        open_channel(mail_settings(port, "nobody@example.com"), {"SMTP_PASSWORD": "right"}).send(MESSAGE)
    both = mail_settings(port, "nobody@example.com", "ann@example.com")
    with pytest.raises(MessageRefusedError, match=r"refuses nobody@example\.com; all others have the mail"):
        open_channel(both, {"SMTP_PASSWORD": "right"}).send(MESSAGE)
    assert len(box.mails) == 1
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and greets nobody
        settings = mail_settings(silent.getsockname()[1]).model_copy(update={"timeout_s": 0.3})
        with pytest.raises(ChannelAwayError, match="cannot be reached"):
            open_channel(settings, {"SMTP_PASSWORD": "right"}).send(MESSAGE)


def test_services_of_apprise_get_title_and_text(caplog: pytest.LogCaptureFixture) -> None:
    with receive(200, 500) as receiver:
        url = receiver.url.replace("http://", "json://")
        channel = open_channel(settings_of(kind="apprise", url_env="CHAT_URL"), {"CHAT_URL": url})
        channel.send(MESSAGE)
        posted = json.loads(receiver.bodies[0])
        assert posted["title"].startswith("PAGE app/231: flights v4")
        assert "Next: raymlops alarms show app/231" in posted["message"]
        with pytest.raises(ChannelAwayError, match="CHAT_URL did not take the message"):
            channel.send(MESSAGE)
    with pytest.raises(SpecError, match="CHAT_URL holds no URL that apprise knows"):
        open_channel(settings_of(kind="apprise", url_env="CHAT_URL"), {"CHAT_URL": "sluck://hidden"})
    assert "hidden" not in caplog.text


def test_a_channel_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'raymlops\[notify\]'"):
        open_channel(settings_of(kind="apprise", url_env="CHAT_URL"), {"CHAT_URL": "json://x"})


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, MessageRefusedError), *((status, ChannelAwayError) for status in (302, 401, 429, 503))],
)
def test_a_status_says_whether_a_webhook_is_tried_again(status: int, error: type[Exception]) -> None:
    with receive(status) as receiver:
        channel = open_channel(settings_of(kind="webhook", url=receiver.url), {})
        with pytest.raises(error, match=f"answered with status {status}"):
            channel.send(MESSAGE)
        assert "webhook-signature" not in receiver.headers[0]


def test_a_url_from_the_environment_is_not_told_and_netrc_is_not_sent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with receive(500) as receiver:
        environment = {"HOOK_URL": f"{receiver.url}/hidden", "TOKEN": "abc"}
        settings = settings_of(kind="webhook", url_env="HOOK_URL")
        with pytest.raises(ChannelAwayError) as caught:
            open_channel(settings, environment).send(MESSAGE)
        assert "hidden" not in str(caught.value)
        open_channel(settings.model_copy(update={"bearer_env": "TOKEN"}), environment).send(MESSAGE)
        assert [one.get("authorization") for one in receiver.headers] == [None, "Bearer abc"]
    with pytest.raises(ChannelAwayError, match=r"the URL in HOOK_URL cannot be reached$"):
        open_channel(settings, environment).send(MESSAGE)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of its specification."""
    key = read_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    with pytest.raises(SpecError, match="not base64"):
        read_key("whsec_***")


def test_every_kind_of_the_spec_has_a_channel() -> None:
    kinds = {"log": {}, "file": {"path": "/x"}, "webhook": {"url": "http://x"}, "apprise": {"url_env": "X"}}
    for kind, given in kinds.items():
        assert settings_of(kind=kind, **given).kind in CHANNELS
    assert set(CHANNELS) == {*kinds, "mail"}
