import pathlib
from typing import Any

import pytest

from raymlops.errors import SpecError
from raymlops.monitoring.tick_store import TickStore
from raymlops.runtime import monitored_versions
from raymlops.runtime.monitored_versions import find_roles, list_registered, pin_monitoring
from raymlops.settings import Settings
from raymlops.specs.document import parse_document
from raymlops.specs.monitoring import Monitoring
from raymlops.specs.serving import ServingSpec
from tests.monitored_versions import make_reference

SPEC = """
models:
  flights: {source: models:/flights/3}
  plain: {source: model.onnx}
graphs:
  tree:
    name: tree
    inputs: [{name: x, datatype: FP32, shape: [-1, 3]}]
    nodes:
      old: {kind: model, model: models:/flights/3, inputs: inputs}
      new: {kind: model, model: models:/flights/4, inputs: inputs}
      try: {kind: model, model: models:/flights/5, inputs: inputs}
      file: {kind: model, model: model.onnx, inputs: inputs}
      share: {kind: split, weights: {old: 99, new: 1}}
      answer: {kind: shadow, primary: share, mirror: try}
    outputs: [answer]
"""


def read(text: str = SPEC) -> ServingSpec:
    return parse_document(text, ServingSpec)


def test_every_registered_version_is_found_with_its_role() -> None:
    spec = read()
    assert list(list_registered(spec)) == [
        ("flights", "endpoint", "models:/flights/3"),
        ("tree/old", "node", "models:/flights/3"),
        ("tree/new", "canary", "models:/flights/4"),
        ("tree/try", "shadow", "models:/flights/5"),
    ]
    assert find_roles(spec.graphs["tree"]) == {"new": "canary", "try": "shadow"}


@pytest.fixture
def settings(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    content = make_reference().to_bytes()
    versions = {"models:/flights/3": content, "models:/flights/5": content}
    monkeypatch.setattr(monitored_versions, "_read_reference", lambda uri, settings: versions.get(uri))
    return Settings.from_env({"RAYMLOPS_HOME": str(tmp_path), "USER": "tester"})


def test_versions_with_a_reference_are_monitored_and_replicas_find_it(settings: Settings) -> None:
    pinned = pin_monitoring(read(), settings)
    assert pinned is not None
    assert {path: one.version for path, one in pinned.watched.items()} == {
        "flights": "3",
        "tree/old": "3",
        "tree/try": "5",
    }
    store = TickStore(pinned.path, "raymlops")
    assert store.read_reference(pinned.watched["flights"].reference).columns == make_reference().columns
    assert store.read_settings() == pinned.model_dump(mode="json")


def test_monitoring_is_on_unless_it_is_off(settings: Settings) -> None:
    assert read().monitoring == Monitoring()
    assert read(f"{SPEC}\nmonitoring: on").monitoring == Monitoring()
    off = read(f"{SPEC}\nmonitoring: off")
    assert off.monitoring is None
    assert pin_monitoring(off, settings) is None
    assert ServingSpec.model_validate(off.model_dump(mode="json")).monitoring is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{tick_second: 60}", "did you mean 'tick_seconds'"),
        ("{tick_seconds: 55}", "no whole number of ticks of 55 s"),
        ("{false_alarms_per_month: 0}", "false_alarms_per_month"),
        ("yes please", "monitoring"),
    ],
)
def test_a_wrong_setting_is_told_with_what_is_right(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        read(f"{SPEC}\nmonitoring: {text}")


def test_a_reference_that_cannot_be_read_stops_no_deployment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitored_versions, "_read_reference", lambda uri, settings: b"of another release")
    pinned = pin_monitoring(read(), settings)
    assert pinned is not None
    assert pinned.watched == {}
    assert "make it again" in caplog.text


def test_a_segment_that_no_version_has_is_refused(settings: Settings) -> None:
    spec = read(f"{SPEC}\nmonitoring: {{segments: [orign]}}")
    with pytest.raises(SpecError, match="did you mean 'origin'"):
        pin_monitoring(spec, settings)


def test_a_folder_that_cannot_be_written_stops_no_deployment(
    settings: Settings, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    spec = read(f"{SPEC}\nmonitoring: {{path: {tmp_path / 'file'}}}")
    pinned: Any = pin_monitoring(spec, settings)
    assert pinned.watched == {}
    assert "is not monitored" in caplog.text
