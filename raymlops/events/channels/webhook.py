"""An HTTP POST of the CloudEvents document (structured mode), signed as Standard Webhooks says:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable

import requests

from raymlops.errors import SpecError, describe_cause
from raymlops.events.channels import ChannelAwayError, MessageRefusedError
from raymlops.events.event import MEDIA_TYPE
from raymlops.events.message import Message, to_cloud_document
from raymlops.specs.notify import WebhookChannel

_MENDABLE = (401, 403, 404, 408, 425, 429)
"""Statuses below 500 that another setting, or another time, changes."""
_PREFIX = "whsec_"


def sign(key: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: HMAC-SHA256 over id, Unix seconds and body, joined by full stops."""
    signed = b".".join((identity.encode(), str(timestamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def read_key(secret: str) -> bytes:
    """The bytes of a secret: base64 after whsec_, as Standard Webhooks writes it, else the text itself. Raises
    SpecError."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise SpecError("The webhook's secret begins with whsec_, but is not base64 after it") from None


class WebhookSender:
    def __init__(self, settings: WebhookChannel, find_variable: Callable[[str], str]) -> None:
        self._url = settings.url or find_variable(settings.url_env)
        self._key = read_key(find_variable(settings.secret_env)) if settings.secret_env else b""
        self._bearer = find_variable(settings.bearer_env) if settings.bearer_env else ""
        self._timeout = settings.timeout_s
        # Told in errors instead of the URL, whose path may be a secret.
        self._name = settings.url or f"the URL in {settings.url_env}"

    def send(self, message: Message) -> None:
        document = to_cloud_document(message)
        body = json.dumps(document).encode()
        try:
            with requests.post(
                self._url,
                data=body,
                headers=self._headers(document["id"], body),
                auth=self._authorize,
                timeout=(min(5.0, self._timeout), self._timeout),
                allow_redirects=False,
                stream=True,  # nothing of the body is read
            ) as answer:
                status, retry_after = answer.status_code, answer.headers.get("retry-after", "")
        except (requests.RequestException, OSError, ValueError) as error:
            kind = "does not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
            cause = "" if self._url != self._name else f" ({describe_cause(error, 200)})"
            raise ChannelAwayError(f"{self._name} {kind}{cause}") from None
        if 200 <= status < 300:
            return
        told = f"{self._name} answered with status {status}"
        if 400 <= status < 500 and status not in _MENDABLE:
            raise MessageRefusedError(told)
        raise ChannelAwayError(told, float(retry_after) if retry_after.isdecimal() else 0.0)

    def _headers(self, identity: str, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": f"{MEDIA_TYPE}; charset=utf-8", "User-Agent": "raymlops"}
        if self._key:
            at = int(time.time())
            headers |= {
                "webhook-id": identity,
                "webhook-timestamp": str(at),
                "webhook-signature": sign(self._key, identity, at, body),
            }
        return headers

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Without it, requests would send what ~/.netrc has for the host."""
        if self._bearer:
            request.headers["Authorization"] = f"Bearer {self._bearer}"
        return request
