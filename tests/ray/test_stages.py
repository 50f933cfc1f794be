"""The stages of a training say truly what they take, give and read, and each runs alone from what was saved."""

import pathlib
from typing import Any

import numpy as np
import pytest
import ray

from raymlops.lifecycle.train import stage_outputs
from raymlops.lifecycle.train.develop import Request, develop_model
from raymlops.lifecycle.train.run_recorder import open_record
from raymlops.lifecycle.train.stages import STAGES
from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import registry, store
from raymlops.training.packed import PackedSplit
from tests import experiments
from tests.saved_stages import run_saved

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def spec(ray_cluster: int, tmp_path_factory: pytest.TempPathFactory) -> ExperimentSpec:
    path = tmp_path_factory.mktemp("stages") / "rows.parquet"
    experiments.write_table(experiments.signal_table(300), path)
    features = {
        "target": {"column": "late"},
        "numbers": ["x", "z"],
        "categories": ["word"],
        "columns": {"sum": {"kind": "number", "expression": "x + z"}},
    }
    # The parts that every stage but one must leave unread say something else than their defaults.
    return experiments.spec_of(
        "staged", {"path": str(path)}, features=features, network={}, description="by stages",
        training={"learner": "tests.own_learners:Logistic"}, search={"trials": 2},
        contract={"columns": {"z": {"max": 2.5}}}, split={"by": "time", "column": "when"}, limits={"parity": 1e-3},
        gate={"latency_ms": 1000},
    )  # fmt: skip


def test_every_stage_finds_its_inputs_among_the_outputs_before_it() -> None:
    given: dict[str, Any] = {}
    for name, stage in STAGES.items():
        assert stage.name == name
        assert stage.outputs, name
        for value, kind in stage.inputs.items():
            assert given[value] == kind, f"{name} takes {value}"
        assert not given.keys() & stage.outputs.keys(), "an output has one stage"
        given |= stage.outputs
    assert list(STAGES) == ["scan", "fit", "encode", "search", "blend", "export", "verify", "register"]
    assert [name for name, stage in STAGES.items() if stage.effect] == ["register"]


def test_a_stage_is_another_where_what_it_reads_is_and_the_same_otherwise(spec: ExperimentSpec) -> None:
    def changed(**parts: dict[str, Any]) -> set[str]:
        value = spec.model_dump(mode="json")
        for part, change in parts.items():
            value[part] |= change
        other = ExperimentSpec.model_validate(value)
        return {name for name, stage in STAGES.items() if stage.digest(other) != stage.digest(spec)}

    assert changed(dataset={"limit": 10}) == {"scan"}
    assert changed(training={"resident_bytes": 1}) == {"encode", "search", "blend", "export", "verify"}
    assert changed(limits={"parity": 1e-2}) == {"verify"}
    assert changed(gate={"latency_ms": 1.0}) == {"search", "blend"}  # what cannot keep it is not tried


@pytest.mark.slow
def test_each_stage_runs_alone_from_what_was_saved_and_the_model_has_the_same_bytes(
    spec: ExperimentSpec, settings: Settings, tmp_path: pathlib.Path
) -> None:
    outcome = develop_model(spec, settings, Request(name="at-once", register=False))
    folder = str(tmp_path)
    options = {"search": {"name": "staged", "storage_path": f"{folder}/search", "concurrent": 2}}
    # Processes of their own, which know nothing but the files.
    run = ray.remote(num_cpus=0, max_calls=1)(run_saved)
    digests = ray.get(run.remote(("scan", "fit", "encode", "search"), spec, folder, options))
    digests |= ray.get(run.remote(("blend", "export", "verify"), spec, folder))
    assert (tmp_path / "model" / "model.onnx").read_bytes() == outcome.model.read_bytes()
    rows, proof = (
        stage_outputs.load(STAGES[name].outputs[value], f"{folder}/{value}")
        for name, value in (("scan", "rows"), ("verify", "proof"))
    )
    assert proof.metrics == outcome.proof.metrics
    record = open_record(
        store.connect(settings), spec, rows, settings, "staged", "a stage", print, resumed=True
    )
    run_saved(["register"], spec, folder, {"register": {"record": record}})
    version = (tmp_path / "version" / "value.json").read_text().strip('"')
    found = registry.resolve(f"models:/staged/{version}", settings)
    assert found.file.read_bytes() == outcome.model.read_bytes()
    assert found.tags["raymlops.fingerprint"] == rows.scan.fingerprint.digest
    # Equal inputs, equal outputs: of what is not a search's trials, with their seconds and names.
    again = run_saved(["fit", "encode"], spec, folder)
    assert again == {value: digests[value] for value in again}


def test_rows_in_blocks_are_saved_where_they_lie_and_loaded_as_they_were(
    spec: ExperimentSpec, tmp_path: pathlib.Path
) -> None:
    def encode(resident_bytes: int) -> PackedSplit:
        value = spec.model_dump(mode="json")
        value["training"]["resident_bytes"] = resident_bytes
        changed = ExperimentSpec.model_validate(value)
        (rows,) = STAGES["scan"].run(changed)
        features, _ = STAGES["fit"].run(changed, rows)
        found: PackedSplit = STAGES["encode"].run(changed, rows, features).train
        return found

    held, streamed = encode(2**20), encode(0)
    saved = stage_outputs.save(streamed, str(tmp_path))
    loaded = stage_outputs.load(PackedSplit, str(tmp_path))
    assert loaded.sizes == streamed.sizes
    assert loaded.arrays is None
    assert stage_outputs.save(loaded, str(tmp_path / "again")).digest == saved.digest
    for name, values in held.load().items():
        np.testing.assert_array_equal(loaded.load()[name], values)
