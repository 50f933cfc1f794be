"""What a proxy knows of the applications of its cluster when one of them, or Serve's controller, is not as it should
be."""

import asyncio
import logging
from typing import Any

import pytest

from raymlops.errors import AuthenticationError
from raymlops.serving import serve_internals
from raymlops.serving.proxy.key_guard import Applications
from raymlops.serving.transport.api_keys import make_key

TOKEN, KEY = make_key("app", ["infer"])
ENTRY = {"name": KEY.name, "roles": list(KEY.roles), "sha256": KEY.sha256}


class Controller:
    """Serve's, as far as a proxy asks it: tells `applications` after `wait_s`, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **applications: Any) -> None:
        self.applications = applications
        self.wait_s = 0.0
        self.fails: Exception | None = None
        self.asked = 0
        monkeypatch.setattr(serve_internals, "find_controller", lambda: self)

    @property
    def get_serve_instance_details(self) -> "Controller":
        return self

    async def remote(self) -> dict[str, Any]:
        self.asked += 1
        await asyncio.sleep(self.wait_s)
        if self.fails is not None:
            raise self.fails
        return {"applications": self.applications}


def describe(prefix: str, user_config: Any = None, **args: Any) -> dict[str, Any]:
    """What Serve's controller tells of an application of ours."""
    config: dict[str, Any] = {"import_path": "raymlops.serving.app:build_app", "args": args}
    if user_config is not None:
        config["deployments"] = [{"name": "Ingress", "user_config": user_config}]
    return {"route_prefix": prefix, "deployed_app_config": config}


async def ask_again(applications: Applications) -> Any:
    """As when what is known has grown old."""
    applications._asked = float("-inf")
    return await applications.refresh()


BROKEN = [
    describe("/bad", {"keys": [{"name": "app"}]}),
    describe("/bad", {"keys": None}),
    describe("/bad", {"keys": ["rmk_app_x"]}),
    describe("/bad", {"keys": {"app": ENTRY}}),
    describe("/bad", ["keys"]),
    describe("/bad", keys=3),
    describe("/bad", keys="~no-such-user/keys.yaml"),
    describe("/bad", models=3),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_an_application_whose_keys_cannot_be_read_is_closed_and_others_are_guarded_as_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: dict[str, Any]
) -> None:
    Controller(monkeypatch, bad=broken, good=describe("/good", {"keys": [ENTRY]}))
    applications = Applications()

    async def look_thrice() -> Any:
        for _ in range(2):
            await ask_again(applications)
        return await ask_again(applications)

    with caplog.at_level(logging.ERROR):
        known = asyncio.run(look_thrice())
    assert known["good"].ring.identify(TOKEN) == KEY
    assert known["bad"].prefix == "/bad"
    for token in ("", TOKEN):
        with pytest.raises(AuthenticationError):
            known["bad"].ring.identify(token)
    assert [record for record in caplog.records if "bad" in record.getMessage()] == caplog.records[:1]


def test_keys_that_were_known_stay_in_force_while_those_that_came_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    controller = Controller(monkeypatch, shop=describe("/shop", {"keys": [ENTRY]}), open=describe("/open"))
    applications = Applications()

    async def break_and_mend() -> None:
        assert (await ask_again(applications))["open"].ring.is_open
        controller.applications = {
            name: describe(f"/{name}2", {"keys": [{"role": "x"}]}) for name in ("shop", "open")
        }
        known = await ask_again(applications)
        assert known["shop"].ring.identify(TOKEN) == KEY
        assert known["shop"].prefix == "/shop2"
        assert not known["open"].ring.is_open
        controller.applications = {"open": describe("/open", {"keys": [ENTRY]})}
        assert (await ask_again(applications))["open"].ring.identify(TOKEN) == KEY

    asyncio.run(break_and_mend())
