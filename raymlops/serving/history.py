"""What is deployed, as values and files: an application's config in Serve's own form, and those that came
before it."""

import json
import pathlib
from typing import Any

from raymlops.errors import NotFoundError
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

BUILDER = "raymlops.serving.app:build_app"


def make_config(spec: ServingSpec, settings: Settings) -> dict[str, Any]:
    """The application in Serve's own form; it can be written to a file and given to `serve deploy`."""
    variables = {
        "RAYMLOPS_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.registry_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
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
        self._folder = pathlib.Path(settings.storage_path) / "deployments" / application

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self._paths()]

    def add(self, config: dict[str, Any]) -> None:
        """Remember a config that has become healthy, unless it is the newest already."""
        paths = self._paths()
        if paths and json.loads(paths[-1].read_text()) == config:
            return
        number = int(paths[-1].stem) + 1 if paths else 1
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{number:06d}.json").write_text(json.dumps(config, indent=1))

    def newest(self) -> dict[str, Any] | None:
        configs = self.read()
        return configs[-1] if configs else None

    def previous(self) -> dict[str, Any]:
        """The config before the newest. Raises NotFoundError."""
        configs = self.read()
        if len(configs) < 2:
            raise NotFoundError(
                "There is no earlier deployment to go back to; deploy one with: raymlops deploy FILE"
            )
        return configs[-2]

    def drop_newest(self) -> None:
        self._paths()[-1].unlink()

    def _paths(self) -> list[pathlib.Path]:
        return sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
