"""Watches for a cloud's notice that this machine will be taken away, and passes it to Ray, whose trainings then save.

Ray marks the node as draining: nothing new is placed there, and running work has until the deadline. Clouds notify
only the machine itself, so each spot node asks its own cloud. Starts and stops no machine.
"""

import datetime
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from raymlops import ray_internals
from raymlops.errors import ResourceError

_TIMEOUT = 2.0  # seconds; the metadata services are on the machine's own host
# Never through a proxy: the address is link-local.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_AWS_NOTICE = 120.0
_GCP_NOTICE = 30.0
_AZURE_NOTICE = 30.0


def ask_aws(host: str = "http://169.254.169.254") -> float | None:
    """Seconds until an EC2 spot instance is taken away; None if there is no notice.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    token = _get(f"{host}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    text = _get(f"{host}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token or ""})
    return _seconds_until(json.loads(text).get("time"), _AWS_NOTICE) if text else None


def ask_gcp(host: str = "http://metadata.google.internal") -> float | None:
    """Seconds until a spot VM is taken away; None if there is no notice.

    https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption
    """
    text = _get(f"{host}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return _GCP_NOTICE if text and text.strip() == "TRUE" else None


def ask_azure(host: str = "http://169.254.169.254") -> float | None:
    """Seconds until a spot VM is taken away; None if there is no notice.

    https://learn.microsoft.com/en-us/azure/virtual-machines/linux/scheduled-events
    """
    text = _get(f"{host}/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
    for event in json.loads(text).get("Events", []) if text else []:
        if event.get("EventType") == "Preempt":
            return _seconds_until(event.get("NotBefore"), _AZURE_NOTICE)
    return None


def ask_any() -> float | None:
    """Seconds from any of the known clouds; None if there is no notice."""
    for ask in (ask_aws, ask_azure, ask_gcp):
        try:
            left = ask()
        except (OSError, ValueError):  # a machine of another cloud, no service, or an unexpected answer
            continue
        if left is not None:
            return left
    return None


def watch(ask: Callable[[], float | None] = ask_any, pause: float = 5.0) -> float:
    """Poll until there is a notice; returns the seconds left."""
    while (left := ask()) is None:
        time.sleep(pause)
    return left


def drain_node(address: str, node: str, seconds: float) -> None:
    """Tell Ray that a node will be gone in so many seconds. Raises ResourceError if Ray refuses."""
    deadline_ms = round((time.time() + seconds) * 1000)
    accepted, why = ray_internals.drain_node(address, node, "the cloud takes the machine back", deadline_ms)
    if not accepted:
        raise ResourceError(f"The cluster at {address} does not drain node {node[:8]}: {why}")


def _get(url: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310  # fixed hosts
    try:
        with _DIRECT.open(request, timeout=_TIMEOUT) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError:
        return None  # 404: no notice


def _seconds_until(moment: str | None, otherwise: float) -> float:
    """Seconds until a time such as `2026-11-23T08:22:00Z` or `Mon, 23 Nov 2026 08:22:00 GMT`; never negative."""
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%a, %d %b %Y %H:%M:%S GMT"):
        try:
            when = datetime.datetime.strptime(moment or "", form).replace(tzinfo=datetime.UTC)
        except ValueError:
            continue
        return max(0.0, when.timestamp() - time.time())
    return otherwise
