"""Who asks where nobody has a key: the address of a client, as its connection or a proxy of the cluster tells it."""

import hmac
import ipaddress
from collections.abc import Collection, Mapping


class ClientAddresses:
    """`proxies` are the addresses of the cluster's nodes, where its proxies run; loopback is always one. Where
    `token` is not empty, only who sends it in x-raymlops-proxy is believed: on loopback anyone may connect."""

    def __init__(self, proxies: Collection[str] = (), token: str = "") -> None:
        self._proxies = frozenset(proxies)
        self._token = token.encode("latin-1")

    def find(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The name under which a client is counted; the last address of x-forwarded-for is the one that our proxy
        wrote, those before it are the client's own word."""
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
    """An IPv6 client may have as many addresses as it likes within its network of 64 bits. Empty for no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)
