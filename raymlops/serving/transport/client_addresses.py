"""Identifies callers without keys: the address of a client, as given by its connection or by a proxy of the cluster."""

import hmac
import ipaddress
from collections.abc import Collection, Mapping


class ClientAddresses:
    """`proxies` are the addresses of the cluster's nodes, where its proxies run; loopback is always one. If `token`
    is not empty, a proxy is believed only if it sends it in x-raymlops-proxy: on loopback anyone may connect."""

    def __init__(self, proxies: Collection[str] = (), token: str = "") -> None:
        self._proxies = frozenset(proxies)
        self._token = token.encode("latin-1")

    def find(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The name under which a client is counted; our proxy wrote the last address of x-forwarded-for, those before
        it are the client's own claims."""
        forwarded = headers.get(b"x-forwarded-for")
        if forwarded and self._is_proxy(peer, headers):
            return _group(forwarded[-64:].rpartition(b",")[2].strip().decode("latin-1")) or _group(peer)
        return _group(peer)

    def _is_proxy(self, peer: str, headers: Mapping[bytes, bytes]) -> bool:
        if self._token and not hmac.compare_digest(headers.get(b"x-raymlops-proxy", b""), self._token):
            return False
        return peer in self._proxies or peer == "127.0.0.1" or _is_loopback(peer)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _group(address: str) -> str:
    """An IPv6 client can use any address within its /64 network, so the network counts. Empty if it is not an
    address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)
