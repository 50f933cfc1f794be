"""Who is counted where nobody has a key: addresses that connections and proxies tell, and not what clients say."""

import asyncio
import contextlib
import pathlib

import pytest

from raymlops.errors import TooManyRequestsError
from raymlops.serving.transport import rate_limit
from raymlops.serving.transport.client_addresses import ClientAddresses
from raymlops.serving.transport.rate_limit import Bank, RateLimit
from tests import toy_models
from tests.unit.serving.transport.test_asgi import make_ask, make_plane

FORWARDED = b"x-forwarded-for"


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("203.0.113.5", {}, "203.0.113.5"),
        ("203.0.113.5", {FORWARDED: b"1.2.3.4"}, "203.0.113.5"),
        ("127.0.0.1", {FORWARDED: b"1.2.3.4"}, "1.2.3.4"),
        ("127.0.0.1", {FORWARDED: b"9.9.9.9, 1.2.3.4"}, "1.2.3.4"),
        ("::1", {FORWARDED: b"1.2.3.4"}, "1.2.3.4"),
        ("10.0.0.7", {FORWARDED: b"1.2.3.4"}, "1.2.3.4"),
        ("10.0.0.8", {FORWARDED: b"1.2.3.4"}, "10.0.0.8"),
        ("127.0.0.1", {FORWARDED: b"not an address\xff"}, "127.0.0.1"),
        ("127.0.0.1", {FORWARDED: b"1.2.3.4," + b"9" * 10_000}, "127.0.0.1"),
        ("127.0.0.1", {FORWARDED: b"::ffff:1.2.3.4"}, "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", {}, "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", {}, "2001:db8:1:2::"),
        ("", {}, ""),
    ],
)
def test_an_address_is_that_of_the_connection_or_what_our_proxy_says(
    peer: str, headers: dict[bytes, bytes], expected: str
) -> None:
    assert ClientAddresses(["10.0.0.7"]).find(peer, headers) == expected


def test_where_the_proxy_has_a_token_a_neighbour_on_the_machine_is_not_believed() -> None:
    addresses = ClientAddresses(token="secret")
    forged = {FORWARDED: b"1.2.3.4"}
    assert addresses.find("127.0.0.1", forged) == "127.0.0.1"
    assert addresses.find("127.0.0.1", {**forged, b"x-raymlops-proxy": b"guess"}) == "127.0.0.1"
    assert addresses.find("127.0.0.1", {**forged, b"x-raymlops-proxy": b"secret"}) == "1.2.3.4"


def test_one_address_over_its_rate_does_not_stop_another(tmp_path: pathlib.Path) -> None:
    rate = RateLimit(0.01, Bank(0.01, 3.0).lease)
    ask = make_ask(make_plane(tmp_path, {"doubler": toy_models.doubler()}, rate=rate))

    def status(address: str) -> int:
        return ask("GET", "/v2", headers={"X-Forwarded-For": f"9.9.9.9, {address}"}).status_code

    assert [status("1.1.1.1") for _ in range(5)] == [200, 200, 200, 429, 429]
    assert status("2.2.2.2") == 200
    assert ask("GET", "/v2/health/live").status_code == 200


def test_what_is_kept_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_CALLERS", 100)
    bank = Bank(0.01, 2.0)
    limit = RateLimit(0.01, bank.lease)

    async def run() -> None:
        for number in range(1_000):
            await limit.admit(f"address-{number}")
            if number % 10 == 0:  # who keeps calling is not forgotten by the bank
                with contextlib.suppress(TooManyRequestsError):
                    await limit.admit("busy")
        assert len(limit._held) <= 100
        assert len(bank._buckets) <= 100
        with pytest.raises(TooManyRequestsError):
            await limit.admit("busy")

    asyncio.run(run())
