"""The JSON schema of experiment specs, with the names of readers and metrics, which the documents check themselves."""

from typing import Any

from raymlops.metrics import NAMES
from raymlops.specs.dataset import CAPTURED, OWN_NAME, READERS
from raymlops.specs.experiment import ExperimentSpec

_READER = {"anyOf": [{"enum": [*READERS, CAPTURED]}, {"type": "string", "pattern": f"^(read_|{OWN_NAME}$)"}]}


def make_schema() -> dict[str, Any]:
    """For editors, which complete and check by it."""
    schema = ExperimentSpec.model_json_schema()
    parts = schema["$defs"]
    names = sorted(NAMES)
    for name in ("DatasetSpec", "TableSpec"):
        _replace(parts[name]["properties"]["reader"], _READER)
    for name in ("TrainingSpec", "GateSpec"):
        _replace(parts[name]["properties"]["metric"], {"anyOf": [{"enum": names}, {"type": "null"}]})
    for name in ("limits", "slice_limits"):
        parts["GateSpec"]["properties"][name]["propertyNames"] = {"enum": names}
    # `features: auto`, with the target beside it
    schema["properties"]["features"] = {"anyOf": [schema["properties"]["features"], {"const": "auto"}]}
    schema["properties"]["target"] = {
        "description": "The target of features: auto",
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/TargetSpec"}],
    }
    return schema


def _replace(part: dict[str, Any], kind: dict[str, Any]) -> None:
    """Another type; description and default stay."""
    for key in ("type", "anyOf"):
        part.pop(key, None)
    part.update(kind)
