"""Versions and their evidence: external weights, versions made before, repairs, keys of others, and the command."""

import json
import logging
import pathlib
import shutil

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from raymlops import attestation, cli
from raymlops.errors import ArtifactError, UntrustedError, UserError
from raymlops.lifecycle.govern import promotion
from raymlops.lifecycle.govern.register import register_file
from raymlops.models.safety import read_model
from raymlops.models.session import open_session
from raymlops.runtime import sources
from raymlops.settings import Settings
from raymlops.specs.serving import HostedModel
from raymlops.tracking import history, history_writer, registry, store
from tests import toy_models
from tests.conftest import settings_in

pytestmark = pytest.mark.slow  # each registers and signs versions

ROWS = {"x": np.ones((2, 3), np.float32)}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("home"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name.removeprefix("test_")[:40]


def write_model(folder: pathlib.Path, seed: int = 0, apart: bool = False) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    model = toy_models.mlp(features=3, width=4, seed=seed)
    more = (
        {"save_as_external_data": True, "location": "deep/weights.bin", "size_threshold": 0} if apart else {}
    )
    (folder / "deep").mkdir(exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"), **more)
    return folder / "model.onnx"


def register_before(settings: Settings, name: str, file: pathlib.Path, count: int = 1) -> None:
    """Versions as they were registered before anything was signed, with an alias on an unsigned record."""
    client = store.connect(settings)
    client.create_registered_model(name)
    experiment = store.ensure_experiment(client, name, settings).experiment_id
    for number in range(1, count + 1):
        run = client.create_run(experiment).info.run_id
        client.log_artifact(run, str(file), "model")
        source = f"{client.get_run(run).info.artifact_uri}/model"
        digest = attestation.digest_of(file.read_bytes())
        tags = {"raymlops.sha256": digest, "raymlops.who": "bob", "raymlops.why": "early"}
        client.create_model_version(name, source, run, tags=tags)
        entry = history.Entry(
            number, "2026-01-01T00:00:00+00:00", "bob", "promote", "champion", str(number),
            str(number - 1) if number > 1 else "", "early", parent=_last(client, name),
        )  # fmt: skip
        client.set_registered_model_tag(name, history.key_of(entry), entry.to_text())
        client.set_model_version_tag(name, str(number), "raymlops.history", history.anchor_of(entry))
        client.set_registered_model_alias(name, "champion", str(number))


def _last(client: store.Client, name: str) -> str:
    tags = client.get_registered_model(name).tags
    found = [history.read_entry(text)[0] for key, text in tags.items() if key.startswith(history.TAG)]
    return max(found, key=lambda entry: entry.index).digest if found else ""


def test_weights_in_other_files_are_registered_signed_and_loaded(
    own: Settings, name: str, tmp_path: pathlib.Path
) -> None:
    file = write_model(tmp_path / "m", apart=True)
    expected = open_session(file).infer(ROWS)
    version, digest = register_file(file, name, "a test", own)
    found = registry.resolve(f"models:/{name}/{version}", own)
    assert found.manifest is not None
    assert {"model.onnx", "deep/weights.bin"} <= set(found.manifest.files)
    assert found.digest == digest == found.manifest.digest
    answer = open_session(read_model(found.file, found.digest)).infer(ROWS)
    for output, values in expected.items():
        np.testing.assert_array_equal(answer[output], values)
    pinned = sources.pin_model(HostedModel(source=found.uri), own)
    assert pinned.digest == digest
    weights = found.path / "deep" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UntrustedError, match=r"'deep/weights.bin' .* was changed after registration"):
        registry.resolve(f"models:/{name}/{version}", own)
    with pytest.raises(ArtifactError, match="was registered"):
        read_model(found.file, found.digest)


def test_a_deployment_of_changed_weights_is_a_change(own: Settings, tmp_path: pathlib.Path) -> None:
    file = write_model(tmp_path / "m", apart=True)
    model = HostedModel(source=str(file))
    before = sources.pin_model(model, own)
    assert sources.pin_model(model, own) == before
    weights = tmp_path / "m" / "deep" / "weights.bin"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    assert sources.pin_model(model, own).digest != before.digest
    with pytest.raises(ArtifactError, match="was registered"):
        sources.pin_model(before, own)


def test_versions_made_before_are_served_with_a_warning_and_promoted_once_they_are_signed(
    own: Settings, name: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_before(own, name, write_model(tmp_path / "m"), count=3)
    with caplog.at_level(logging.WARNING):
        assert registry.resolve(f"models:/{name}@champion", own).version == "3"
    assert f"raymlops history {name} --sign --why" in caplog.text
    assert promotion.read_record(name, own).problems == ()
    with pytest.raises(UserError, match="no evidence that a trusted key signed"):
        promotion.move_alias(name, "2", "challenger", "please", own)
    assert promotion.roll_back(name, "three was bad", own).version == "2"
    with pytest.raises(UserError, match="no evidence that a trusted key signed"):
        promotion.move_alias(name, "3", "challenger", "please", own)
    assert promotion.sign_versions(name, "looked at by ann", own, "3") == ["3"]
    promotion.move_alias(name, "3", "challenger", "please", own)
    assert promotion.sign_versions(name, "the others too", own) == ["1", "2"]
    with pytest.raises(UserError, match="was never judged"):
        promotion.move_alias(name, "3", "champion", "please", own)
    caplog.clear()
    assert registry.resolve(f"models:/{name}@champion", own).manifest.adopted
    assert caplog.text == ""
    record = promotion.read_record(name, own)
    assert record.problems == ()
    assert [entry.action for entry in record.entries[3:]] == ["rollback", "sign", "promote", "sign", "sign"]


def test_a_file_that_is_not_the_registered_one_is_not_adopted(
    own: Settings, name: str, tmp_path: pathlib.Path
) -> None:
    register_before(own, name, write_model(tmp_path / "m"))
    source = store.connect(own).get_model_version(name, "1").source
    shutil.copy(write_model(tmp_path / "n", seed=1), source.removeprefix("file://") + "/model.onnx")
    with pytest.raises(UntrustedError, match="it is not signed"):
        promotion.sign_versions(name, "trust me", own)


def test_evidence_of_another_counts_once_the_key_is_trusted(
    own: Settings, name: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_file(write_model(tmp_path / "m"), name, "by ann", own)
    promotion.move_alias(name, "1", "candidate", "by ann", own)
    other = settings_in(tmp_path / "bob", MLFLOW_TRACKING_URI=own.tracking_uri)
    with caplog.at_level(logging.WARNING):
        assert registry.resolve(f"models:/{name}@candidate", other).manifest is None
    assert "no evidence that a trusted key signed" in caplog.text
    with pytest.raises(UserError):
        promotion.move_alias(name, "1", "challenger", "by bob", other)
    key = attestation.load_signing_key(own).line
    told = settings_in(tmp_path / "bob", MLFLOW_TRACKING_URI=own.tracking_uri, RAYMLOPS_TRUSTED_KEYS=key)
    assert registry.resolve(f"models:/{name}@candidate", told).manifest is not None
    promotion.move_alias(name, "1", "challenger", "by bob", told)
    problems = promotion.read_record(name, own).problems
    assert any("no trusted key" in problem for problem in problems)
    back = settings_in(own.home, RAYMLOPS_TRUSTED_KEYS=attestation.load_signing_key(told).line)
    assert promotion.read_record(name, back).problems == ()


def test_an_alias_that_was_moved_past_the_record_is_not_served(
    own: Settings, name: str, tmp_path: pathlib.Path
) -> None:
    for seed in range(2):
        register_file(write_model(tmp_path / "m", seed), name, "a test", own)
    promotion.move_alias(name, "1", "champion", "an emergency", own, force=True)
    client = store.connect(own)
    client.set_registered_model_alias(name, "champion", "2")
    with pytest.raises(UntrustedError, match="version 2, but the record says version 1; it was moved past"):
        registry.resolve(f"models:/{name}@champion", own)
    with pytest.raises(UntrustedError, match="alias 'champion' is at version 2"):
        promotion.roll_back(name, "back", own)
    assert promotion.repair_record(name, "somebody used MLflow's page", own) == [
        "put alias champion back to version 1"
    ]
    assert registry.resolve(f"models:/{name}@champion", own).version == "1"
    assert promotion.read_record(name, own).problems == ()


@pytest.mark.parametrize("damage", ["heads", "champion", "manifest"])
def test_a_repair_leaves_a_record_that_holds_and_says_what_was_done(
    own: Settings, damage: str, tmp_path: pathlib.Path
) -> None:
    damage_and_repair(own, damage, tmp_path)


def damage_and_repair(own: Settings, damage: str, tmp_path: pathlib.Path) -> None:
    """Damage a record of two champions, find it out, fix it, and go on."""
    name = f"repaired {damage}"
    client = store.connect(own)
    for seed in range(2):
        register_file(write_model(tmp_path / "m", seed), name, "a test", own)
    for version in ("1", "2"):
        promotion.move_alias(name, version, "champion", "an emergency", own, force=True)
    record = history.read_record(client, name, own)
    root = pathlib.Path(client.get_run(record.run).info.artifact_uri.removeprefix("file://"))
    if damage == "entry":
        client.delete_registered_model_tag(name, history.key_of(record.entries[1]))
    elif damage == "heads":
        newest = max(root.glob("heads/*/*.json"))
        newest.with_name("000000000900-000900.json").write_text("{}")
    elif damage == "manifest":
        (root / "manifests" / record.manifests["1"][:2] / f"{record.manifests['1']}.json").write_text("{}")
    elif damage == "champion":
        client.delete_model_version(name, "2")
    elif damage == "forged tags":
        client.set_model_version_tag(name, "1", "raymlops.gate", "passed")
        client.delete_model_version_tag(name, "2", "raymlops.manifest")
    else:
        client.set_registered_model_tag(name, f"{history.TAG}000002.0000", "not json")
    before = promotion.read_record(name, own)
    assert before.problems
    with pytest.raises(UntrustedError, match="--repair"):
        promotion.roll_back(name, "back", own)
    done = promotion.repair_record(name, "the disk was full", own)
    after = promotion.read_record(name, own)
    assert after.problems == ()
    assert any("the disk was full" in entry.why for entry in after.entries if entry.action == "repair")
    assert done
    champion = dict(client.get_registered_model(name).aliases).get("champion")
    assert str(champion) == ("None" if damage == "champion" else "2")
    if damage == "manifest":
        assert any("version 1 has no valid evidence" in line for line in done)
        assert promotion.sign_versions(name, "looked at", own) == ["1"]
    promotion.move_alias(name, "1", "champion", "an emergency", own, force=True)
    assert promotion.read_record(name, own).problems == ()


def test_a_forced_move_over_problems_says_so_and_hides_none(
    own: Settings, name: str, tmp_path: pathlib.Path
) -> None:
    for seed in range(2):
        register_file(write_model(tmp_path / "m", seed), name, "a test", own)
    client = store.connect(own)
    last = history.read_record(client, name, own).entries[-1]
    client.delete_registered_model_tag(name, history.key_of(last))
    entry = promotion.move_alias(name, "1", "champion", "an emergency", own, force=True)
    assert entry.forced
    assert "did not hold: entry 2 is missing" in entry.why
    assert any("entry 2 is missing" in problem for problem in promotion.read_record(name, own).problems)


def test_a_reason_of_any_letters_fits(own: Settings, name: str, tmp_path: pathlib.Path) -> None:
    register_file(write_model(tmp_path / "m"), name, "理由" * 3000, own)
    promotion.move_alias(name, "1", "challenger", "\U0001f600\ud800" * 3000, own)
    assert promotion.read_record(name, own).problems == ()


def test_a_version_of_a_record_with_problems_is_kept_and_told_of(
    own: Settings, name: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_file(write_model(tmp_path / "m"), name, "a test", own)
    client = store.connect(own)
    client.set_registered_model_alias(name, "champion", "1")
    with caplog.at_level(logging.WARNING):
        version, _ = register_file(write_model(tmp_path / "m", seed=1), name, "a test", own)
    assert f"models:/{name}/{version} is registered, but could not be signed" in caplog.text
    with pytest.raises(UserError):
        promotion.move_alias(name, version, "challenger", "please", own)
    assert promotion.repair_record(name, "MLflow's page", own) == ["put alias champion back to nothing"]
    assert promotion.sign_versions(name, "registered meanwhile", own) == [version]
    promotion.move_alias(name, version, "challenger", "please", own)


def test_the_command_signs_repairs_and_prints_the_key(
    own: Settings, name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMLOPS_HOME", str(own.home))
    register_before(own, name, write_model(tmp_path / "m"))
    run = CliRunner().invoke

    def call(*arguments: str) -> tuple[int, str]:
        done = run(cli.raymlops, ["history", *arguments])
        return done.exit_code, done.output

    assert call("--key") == (0, attestation.load_signing_key(own).line + "\n")
    assert "NOTE  the record is not signed" in call(name)[1]
    assert call(name, "--sign")[0] == 2
    code, output = call(name, "--sign", "--why", "looked at")
    assert code == 0
    assert "Signed: version 1" in output
    store.connect(own).delete_registered_model_alias(name, "champion")
    code, output = call(name, "--json")
    assert code == 1
    assert json.loads(output)["problems"] == ["alias 'champion' is gone, but the record says version 1"]
    code, output = call(name, "--repair", "--why", "a slip")
    assert code == 0
    assert "REPAIRED  put alias champion back to version 1" in output
    assert "The record is valid." in output
    assert history_writer.repair(store.connect(own), name, own, "again") == []


def test_a_model_that_mlflow_alone_knew_is_taken_over_with_its_aliases(
    own: Settings, name: str, tmp_path: pathlib.Path
) -> None:
    client = store.connect(own)
    register_before(own, name, write_model(tmp_path / "m"))
    for key in client.get_registered_model(name).tags:
        client.delete_registered_model_tag(name, key)
    for key in client.get_model_version(name, "1").tags:
        client.delete_model_version_tag(name, "1", key)
    record = promotion.read_record(name, own)
    assert (record.problems, record.notes) == ((), ("the aliases were set before the record was started",))
    version, _ = register_file(write_model(tmp_path / "m", seed=1), name, "the next", own)
    record = promotion.read_record(name, own)
    assert record.problems == ()
    assert [(entry.action, entry.alias) for entry in record.entries] == [
        ("adopt", "champion"),
        ("register", ""),
    ]
    assert registry.resolve(f"models:/{name}@champion", own).version == "1"
    promotion.move_alias(name, version, "challenger", "please", own)
    copied = {**client.get_model_version(name, version).tags}
    for key, value in copied.items():  # as MLflow copies a version to another model, with its tags
        client.set_model_version_tag(name, "1", key, value)
    assert promotion.read_record(name, own).problems
    done = promotion.repair_record(name, "MLflow copied them", own)
    assert any("version 1" in line for line in done)
    assert promotion.read_record(name, own).problems == ()
