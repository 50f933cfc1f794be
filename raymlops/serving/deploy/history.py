"""Deployed configs, as values and files: an application's config in Serve's own form, and its earlier ones."""

import base64
import contextlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from raymlops import attestation, secret_texts
from raymlops.clusters import secret_files, storage
from raymlops.errors import ForbiddenError, NotFoundError, SpecError, UntrustedError
from raymlops.settings import Settings
from raymlops.specs.document import read_json, update_recorded
from raymlops.specs.serving import ServingSpec

BUILDER = "raymlops.serving.app:build_app"


def make_config(spec: ServingSpec, settings: Settings) -> dict[str, Any]:
    """The application in Serve's own form; it can be written to a file and given to `serve deploy`.

    Raises ForbiddenError if it would contain a password, since the dashboard shows it.
    """
    if secret_texts.holds_password(settings.storage_path):
        raise ForbiddenError(
            "RAYMLOPS_STORAGE holds a password, which everyone could read in the application's environment; give it to "
            "the nodes as variables of the store, such as AWS_SECRET_ACCESS_KEY"
        )
    if secret_texts.holds_password(settings.tracking_uri + " " + settings.registry_uri):
        raise ForbiddenError(
            "MLFLOW_TRACKING_URI holds a password, which everyone could read in the application's environment; "
            "write user and password to ~/.mlflow/credentials of every node instead"
        )
    args = spec.model_dump(mode="json")
    for place, name, text in _texts(args):
        secret = text and place[-2:-1] == ("config",) and secret_texts.names_secret(name)
        if place[-2:-1] == ("code",) and not name.endswith(".py"):  # a file that a Python node names
            secret = secret_files.explain_secret_name(pathlib.PurePosixPath(name)) is not None
        if secret or secret_texts.holds_password(text) or any(secret_texts.find_secrets(text)):
            raise ForbiddenError(
                f"{'.'.join(place)} looks like a secret, which everyone could read in the application's config; "
                "let the node read it from a file or a Kubernetes Secret instead"
            )
    variables = {
        "RAYMLOPS_HOME": str(settings.home),
        "RAYMLOPS_STORAGE": settings.storage_path,
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.registry_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    if keys := attestation.load_trusted_keys(settings):
        # Replicas on other nodes lack the key files; public keys may be shown to all.
        variables["RAYMLOPS_TRUSTED_KEYS"] = attestation.to_lines(keys)
    return {
        "name": spec.name,
        "route_prefix": spec.route,
        "import_path": BUILDER,
        "runtime_env": {"env_vars": variables},
        "args": args,
    }


def _texts(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Place, name and text of every text in a document."""
    if isinstance(value, str):
        yield place, place[-1], value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*place, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*place, str(index)))


_PAYLOAD = "application/vnd.raymlops.deployment+json"


class History:
    """The deployed configs, newest last, as signed files under the storage path, which every machine of a cluster
    reaches, and to which others may write. Only configs that a trusted key signed are read, unless the caller trusts
    all."""

    def __init__(self, settings: Settings, application: str, *, trusted: bool = False) -> None:
        self._files, self._folder = _open_folder(settings, application)
        self._settings, self.application, self._trusted = settings, application, trusted

    def read(self) -> list[dict[str, Any] | None]:
        """Every config; None stands for a removal of the application."""
        return [self._read(path) for path in self._paths()]

    def add(self, config: dict[str, Any] | None) -> None:
        """Record a config that has become healthy, or with None a removal, unless the newest entry is equal."""
        paths = self._paths()
        with contextlib.suppress(UntrustedError):  # that is replaced
            if paths and self._read(paths[-1]) == config:
                return
        self._write(int(pathlib.PurePosixPath(paths[-1]).stem) + 1 if paths else 1, config)

    def amend(self, config: dict[str, Any]) -> None:
        """Record a change of the newest config that was made while it serves: a rollback still goes to the one
        before."""
        paths = self._paths()
        if paths:
            self._write(int(pathlib.PurePosixPath(paths[-1]).stem), config)

    def newest(self) -> dict[str, Any] | None:
        paths = self._paths()
        return self._read(paths[-1]) if paths else None

    def previous(self) -> dict[str, Any]:
        """The config before the newest. Raises NotFoundError."""
        paths = self._paths()
        before = self._read(paths[-2]) if len(paths) > 1 else None
        if before is None:
            raise NotFoundError(
                "There is no earlier deployment to go back to; deploy one with: raymlops deploy FILE"
            )
        return before

    def drop_newest(self) -> None:
        self._files.rm(self._paths()[-1])

    def _paths(self) -> list[str]:
        found = self._files.glob(f"{self._folder}/*.json")
        return sorted(path for path in found if re.fullmatch(r"[0-9]{6}", pathlib.PurePosixPath(path).stem))

    def _read(self, path: str) -> dict[str, Any] | None:
        text = self._files.cat_file(path)
        number = int(pathlib.PurePosixPath(path).stem)
        try:
            payload = text if self._trusted else self._verify(text)
            held = _unwrap(payload) if self._trusted else read_json(payload, path)
            if not self._trusted and (held["application"], held["number"]) != (self.application, number):
                raise UntrustedError(f"it was signed as number {held['number']} of {held['application']!r}")
            config: dict[str, Any] | None = held["config"]
        except (UntrustedError, SpecError, KeyError, TypeError) as error:
            raise UntrustedError(
                f"The deployed config {path!r} is refused, since it names code to run: {error}. Deploy it again "
                "with `raymlops deploy FILE`, list the deployer's key in RAYMLOPS_TRUSTED_KEYS, or pass --trust"
            ) from None
        if (
            config is not None
            and config.get("import_path") == BUILDER
            and isinstance(config.get("args"), dict)
        ):
            config["args"] = update_recorded(config["args"], ServingSpec)
        return config

    def _verify(self, text: bytes) -> bytes:
        return attestation.verify(text, _PAYLOAD, attestation.load_trusted_keys(self._settings)).payload

    def _write(self, number: int, config: dict[str, Any] | None) -> None:
        """Atomic: a machine that fails here leaves no file that cannot be read later."""
        self._files.makedirs(self._folder, exist_ok=True)
        path = f"{self._folder}/{number:06d}.json"
        held = {"application": self.application, "number": number, "config": config}
        text = attestation.load_signing_key(self._settings).sign(
            json.dumps(held, sort_keys=True).encode(), _PAYLOAD
        )
        self._files.pipe_file(f"{path}.part", text.encode())
        self._files.mv(f"{path}.part", path)


def _unwrap(text: bytes) -> dict[str, Any]:
    """The content of an envelope, whoever signed it; or a config written before they were signed."""
    held = read_json(text, "a deployment")
    if isinstance(held, dict) and held.keys() == {"payload", "payloadType", "signatures"}:
        return dict(read_json(base64.b64decode(held["payload"]), "a deployment"))
    return {"config": held}


_CODE = re.compile(r"[\w.]+:\w+")
"""`module:Class`, as loosely as specs take it."""


def list_code(config: dict[str, Any]) -> list[str]:
    """`place: module:Class` for each node and observer of an application's config that runs code of a user: what stands
    there as a `target`, or as the kind of a node."""
    found: list[str] = []

    def look(place: str, value: Any) -> None:
        if isinstance(value, dict):
            named = (value.get(key) for key in ("kind", "target"))
            found.extend(f"{place}: {code}" for code in named if _CODE.fullmatch(str(code)))
            for key, inner in value.items():
                look(f"{place}.{key}", inner)
        elif isinstance(value, list):
            for place_in, inner in enumerate(value):
                look(f"{place}.{place_in}", inner)

    look("args", config.get("args"))
    return found


def list_applications(settings: Settings) -> list[str]:
    """The names of applications with a history; reads none of it."""
    files, folder = _open_folder(settings)
    return sorted({pathlib.PurePosixPath(path).parent.name for path in files.glob(f"{folder}/*/*.json")})


def read_deployed(
    settings: Settings, *, trusted: bool = False, refused: list[str] | None = None
) -> list[dict[str, Any]]:
    """The newest config of each application that was not removed, by name. Reasons for leaving others out are
    appended to `refused`; without it, raises UntrustedError."""
    found = []
    for name in list_applications(settings):
        try:
            config = History(settings, name, trusted=trusted).newest()
        except UntrustedError as error:
            if refused is None:
                raise
            refused.append(str(error))
            continue
        if config is not None:
            found.append(config)
    return found


def _open_folder(settings: Settings, *parts: str) -> tuple[Any, str]:
    return storage.open_folder(settings.storage_path, "deployments", *parts)
