"""What is remembered of deployments at the storage path, and what a head that starts again finds there."""

import base64
import json
import pathlib

import pytest

from raymlops import attestation
from raymlops.errors import NotFoundError, StorageError, UntrustedError
from raymlops.serving.deploy.history import BUILDER, History, list_code, read_deployed
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec
from tests.conftest import settings_in


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Settings:
    return settings_in(tmp_path)


def test_a_head_finds_the_newest_of_each_application_and_not_what_was_taken_away(settings: Settings) -> None:
    assert read_deployed(settings) == []
    for name, configs in {"a": [{"v": 1}, {"v": 2}], "b": [{"v": 3}], "gone": [{"v": 4}, None]}.items():
        for config in configs:
            History(settings, name).add(config)
    assert read_deployed(settings) == [{"v": 2}, {"v": 3}]
    assert History(settings, "gone").previous() == {"v": 4}  # `deploy --rollback` brings it back


def test_shares_that_were_changed_are_remembered_and_a_rollback_goes_to_the_version_before(
    settings: Settings,
) -> None:
    past = History(settings, "a")
    past.amend({"v": 0})  # nothing was deployed
    assert past.read() == []
    past.add({"v": 1})
    past.add({"v": 2})
    past.amend({"v": 2, "share": 0.1})
    assert read_deployed(settings) == [{"v": 2, "share": 0.1}]
    assert past.previous() == {"v": 1}
    past.drop_newest()
    with pytest.raises(NotFoundError, match="no earlier"):
        past.previous()


def test_what_a_machine_that_died_left_half_written_is_not_read(
    settings: Settings, tmp_path: pathlib.Path
) -> None:
    History(settings, "a").add({"v": 1})
    (tmp_path / "storage" / "deployments" / "a" / "000002.json.part").write_text('{"v": ')
    assert read_deployed(settings) == [{"v": 1}]


def test_a_storage_that_nothing_opens_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        read_deployed(settings_in(tmp_path, RAYMLOPS_STORAGE="nope://bucket/x"))


def forge(settings: Settings, application: str, config: object, number: int = 1) -> None:
    folder = pathlib.Path(settings.storage_path) / "deployments" / application
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:06d}.json").write_text(json.dumps(config))


EVIL = {"name": "a", "import_path": "os:system", "args": {"graphs": {"g": {"nodes": {"n": {
    "kind": "python", "target": "evil:Node"}}}}}}  # fmt: skip


def test_all_code_of_users_in_a_config_is_listed() -> None:
    nodes = {
        "held": {"kind": "own:Clip", "of": ["a.y"]},
        "inner": {"kind": "graph", "graph": {"nodes": {"n": {"kind": "python", "target": "1a.b:Node"}}}},
        "mean": {"kind": "mean", "of": ["a:b"]},
    }
    observers = {
        "far": {"target": "watch:Far", "config": {"url": "http://x:9/"}},
        "log": {"target": "access_log"},
    }
    assert list_code({"args": {"graphs": {"g": {"nodes": nodes}}, "observers": observers}}) == [
        "args.graphs.g.nodes.held: own:Clip",
        "args.graphs.g.nodes.inner.graph.nodes.n: 1a.b:Node",
        "args.observers.far: watch:Far",
    ]


def test_a_config_that_nobody_signed_is_refused_and_shown_to_who_trusts_it(settings: Settings) -> None:
    forge(settings, "a", EVIL)
    with pytest.raises(UntrustedError, match=r"Deploy it again .*RAYMLOPS_TRUSTED_KEYS, or pass --trust"):
        read_deployed(settings)
    assert read_deployed(settings, trusted=True) == [EVIL]
    assert list_code(EVIL) == ["args.graphs.g.nodes.n: evil:Node"]
    History(settings, "a").add({"v": 1})  # the remedy works
    assert read_deployed(settings) == [{"v": 1}]
    with pytest.raises(UntrustedError):
        History(settings, "a").previous()


def test_a_signed_config_is_bound_to_its_application_its_place_and_its_bytes(settings: Settings) -> None:
    for name in ("a", "b"):
        History(settings, name).add({"v": name})
        History(settings, name).add({"v": name * 2})
    folder = pathlib.Path(settings.storage_path) / "deployments"
    first, second, other = (folder / path for path in ("a/000001.json", "a/000002.json", "b/000002.json"))
    kept = second.read_bytes()
    payload = json.loads(kept)
    changed = base64.b64encode(base64.b64decode(payload["payload"]).replace(b'"aa"', b'"xx"')).decode()
    assert changed != payload["payload"]
    for forged in (first.read_bytes(), other.read_bytes(), json.dumps({**payload, "payload": changed}).encode(),
                   json.dumps({**payload, "signatures": []}).encode(), b"{}", b"[]", b"null", b"["):  # fmt: skip
        second.write_bytes(forged)
        with pytest.raises(UntrustedError):
            History(settings, "a").newest()
    second.write_bytes(kept)
    (folder / "a" / "zzz.json").write_text("{}")  # no number of ours
    assert History(settings, "a").newest() == {"v": "aa"}


def test_a_head_with_another_key_takes_what_its_trusted_keys_signed(
    settings: Settings, tmp_path: pathlib.Path
) -> None:
    History(settings, "a").add({"v": 1})
    line = attestation.load_signing_key(settings).line
    elsewhere = settings_in(tmp_path / "head", RAYMLOPS_STORAGE=settings.storage_path)
    with pytest.raises(UntrustedError):
        read_deployed(elsewhere)
    trusting = settings_in(
        tmp_path / "head", RAYMLOPS_STORAGE=settings.storage_path, RAYMLOPS_TRUSTED_KEYS=line
    )
    assert read_deployed(trusting) == [{"v": 1}]


def test_what_was_deployed_under_names_of_before_is_not_remembered_a_second_time(settings: Settings) -> None:
    past = History(settings, "a")
    recorded = ServingSpec(models={"m": {"source": "m.onnx"}}, memory_mb=2048).model_dump(mode="json")
    recorded["memory_gb"] = recorded.pop("memory_mb") / 1024
    past.add({"import_path": BUILDER, "args": recorded})
    spec = ServingSpec(models={"m": {"source": "m.onnx"}}, memory_mb=2048)
    past.add({"import_path": BUILDER, "args": spec.model_dump(mode="json")})
    assert len(past.read()) == 1
    assert ServingSpec.model_validate(past.read()[0]["args"]) == spec
