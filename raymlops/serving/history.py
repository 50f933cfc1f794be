"""What is deployed, as values and files: an application's config in Serve's own form, and those that came
before it."""

import json
import pathlib
from typing import Any

from raymlops import attestation
from raymlops.clusters import storage, tokens
from raymlops.errors import ForbiddenError, NotFoundError
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

BUILDER = "raymlops.serving.app:build_app"


def make_config(spec: ServingSpec, settings: Settings) -> dict[str, Any]:
    """The application in Serve's own form; it can be written to a file and given to `serve deploy`.

    Raises ForbiddenError when a password would be in it, since the dashboard shows it.
    """
    if tokens.holds_password(settings.tracking_uri + " " + settings.registry_uri):
        raise ForbiddenError(
            "MLFLOW_TRACKING_URI holds a password, which would stand in the application's environment for all to "
            "read; write user and password to ~/.mlflow/credentials of every node instead"
        )
    variables = {
        "RAYMLOPS_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.registry_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        # Replicas elsewhere have no files of keys; public keys may be read by all.
        "RAYMLOPS_TRUSTED_KEYS": attestation.to_lines(attestation.load_trusted_keys(settings)),
    }
    return {
        "name": spec.name,
        "route_prefix": spec.route,
        "import_path": BUILDER,
        "runtime_env": {"env_vars": variables},
        "args": spec.model_dump(mode="json"),
    }


class History:
    """What was deployed, newest last, as files under the storage path, which every machine of a cluster
    reaches."""

    def __init__(self, settings: Settings, application: str) -> None:
        self._files, self._folder = _open_folder(settings, application)

    def read(self) -> list[dict[str, Any] | None]:
        """Every config; None stands where the application was taken away."""
        return [self._read(path) for path in self._paths()]

    def add(self, config: dict[str, Any] | None) -> None:
        """Remember a config that has become healthy, or with None that there is none, unless it is the newest
        already."""
        paths = self._paths()
        if paths and self._read(paths[-1]) == config:
            return
        self._write(int(pathlib.PurePosixPath(paths[-1]).stem) + 1 if paths else 1, config)

    def amend(self, config: dict[str, Any]) -> None:
        """Remember what was changed in the newest config while it serves: a rollback still goes to the one before."""
        paths = self._paths()
        if paths:
            self._write(int(pathlib.PurePosixPath(paths[-1]).stem), config)

    def newest(self) -> dict[str, Any] | None:
        paths = self._paths()
        return self._read(paths[-1]) if paths else None

    def previous(self) -> dict[str, Any]:
        """The config before the newest. Raises NotFoundError."""
        configs = self.read()
        before = configs[-2] if len(configs) > 1 else None
        if before is None:
            raise NotFoundError(
                "There is no earlier deployment to go back to; deploy one with: raymlops deploy FILE"
            )
        return before

    def drop_newest(self) -> None:
        self._files.rm(self._paths()[-1])

    def _paths(self) -> list[str]:
        return sorted(self._files.glob(f"{self._folder}/*.json"))

    def _read(self, path: str) -> dict[str, Any] | None:
        config: dict[str, Any] | None = json.loads(self._files.cat_file(path))
        return config

    def _write(self, number: int, config: dict[str, Any] | None) -> None:
        """Whole or not at all: a machine that dies here leaves no file that a later one cannot read."""
        self._files.makedirs(self._folder, exist_ok=True)
        path = f"{self._folder}/{number:06d}.json"
        self._files.pipe_file(f"{path}.part", json.dumps(config, indent=1).encode())
        self._files.mv(f"{path}.part", path)


def read_deployed(settings: Settings) -> list[dict[str, Any]]:
    """The newest config of each application that was not taken away, by name."""
    files, folder = _open_folder(settings)
    names = sorted({pathlib.PurePosixPath(path).parent.name for path in files.glob(f"{folder}/*/*.json")})
    newest = [History(settings, name).newest() for name in names]
    return [config for config in newest if config is not None]


def _open_folder(settings: Settings, *parts: str) -> tuple[Any, str]:
    return storage.open_folder(settings.storage_path, "deployments", *parts)
