"""Reads cluster.yaml, merges overlays into it, and returns the mapping that `ray up` takes. Does not check it beyond
reading; clusters/checks.py does."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from raymlops.errors import NotFoundError, SpecError
from raymlops.specs.cluster import ClusterMetadata
from raymlops.specs.document import read_yaml, validate_document

Config = dict[str, Any]
_TAKEN_WHOLE = ("provider", "node_config")
"""Keys whose contents belong to one cloud: an overlay replaces them, since merging two clouds makes no sense."""


def read_cluster(path: str | pathlib.Path, overlays: Sequence[str | pathlib.Path] = ()) -> Config:
    """The file with the overlays merged into it, in order. Raises NotFoundError and SpecError."""
    config = _read(path)
    for overlay in overlays:
        config = merge(config, _read(overlay))
    return config


def _read(path: str | pathlib.Path) -> Config:
    try:
        value, _ = read_yaml(pathlib.Path(path).read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise NotFoundError(f"No file {str(path)!r}; give the path of a cluster configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read {str(path)!r}: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise SpecError(f"{path} holds {value!r}; expected a mapping of keys to values")
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Config:
    """Mappings are merged; any other value of the overlay replaces the one below, and null removes it."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict) and key not in _TAKEN_WHOLE:
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def write_cluster(config: Config) -> str:
    """The configuration as YAML text for `ray up`."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(config, Dumper=Plain, sort_keys=False, width=110)


def metadata_of(config: Config) -> ClusterMetadata:
    """The section metadata.raymlops. Raises SpecError with the key at fault."""
    ours = config.get("metadata", {}).get("raymlops")
    if not isinstance(ours, dict):
        raise SpecError("cluster.yaml has no metadata.raymlops; manifests need its `kubernetes` section")
    return validate_document(ours, ClusterMetadata, source="metadata.raymlops")


def environment_of(config: Config) -> dict[str, str]:
    """The environment variables that `docker.run_options` sets in every container."""
    found = {}
    words = [
        word for option in config.get("docker", {}).get("run_options", []) for word in shlex.split(option)
    ]
    for position, word in enumerate(words):
        if word in ("--env", "-e") and position + 1 < len(words):
            name, _, value = words[position + 1].partition("=")
            found[name] = value
        elif word.startswith("--env="):
            name, _, value = word.removeprefix("--env=").partition("=")
            found[name] = value
    return found


def worker_types(config: Config) -> dict[str, Config]:
    """All node types but the head's."""
    head = config.get("head_node_type")
    types = config.get("available_node_types") or {}
    return {name: kind for name, kind in types.items() if name != head}


def start_commands(config: Config) -> list[str]:
    return [*config.get("head_start_ray_commands", []), *config.get("worker_start_ray_commands", [])]
