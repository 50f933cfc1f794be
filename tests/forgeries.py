"""A store with some promotions, and every single change that somebody who may write to it could make.

The changes are made past raymlops, in MLflow's database and among its files; each is undone before the next.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import onnx

from raymlops import attestation
from raymlops.errors import RaymlopsError
from raymlops.evaluation.verdict import Check, Verdict
from raymlops.lifecycle.govern import evaluate, promotion
from raymlops.lifecycle.govern.register import register_file
from raymlops.settings import Settings
from raymlops.tracking import history, record_run, registry, store
from tests import toy_models

GOOD, OTHER = "good", "other"
BLOCKED = "3"
"""The version of `good` that the gate blocked; it must never become champion."""


@dataclasses.dataclass(frozen=True)
class Forgery:
    """A change of the store, and what it is called."""

    name: str
    make: Callable[[], Any]
    seen: bool = False
    """Noticed by those alone who have seen the record before."""


class World:
    """`good`: versions 1 and 2 passed and were promoted, 3 was blocked, 4 has weights in a file of its own, 5 was not
    judged. `other`: version 1 passed and was promoted. `outsider` holds a key that nobody trusts."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.settings = Settings.from_env({"RAYMLOPS_HOME": str(folder / "home"), "USER": "ann"})
        self.outsider = Settings.from_env({"RAYMLOPS_HOME": str(folder / "outsider"), "USER": "eve"})
        self.home = self.settings.home
        self.client = store.connect(self.settings)
        for number in range(5):
            model = toy_models.mlp(features=3, width=2, seed=number) if number != 3 else self._with_weights()
            self._register(GOOD, model)
        self._register(OTHER, toy_models.mlp(features=3, width=2, seed=9))
        for name, version, passed in (
            (GOOD, "1", True),
            (GOOD, "2", True),
            (GOOD, "3", False),
            (OTHER, "1", True),
        ):
            self.judge(name, version, passed)
            if passed:
                promotion.move_alias(name, version, "champion", "it passed", self.settings)
        promotion.move_alias(GOOD, "3", "challenger", "to look at", self.settings)
        self._keep()

    def _with_weights(self) -> onnx.ModelProto:
        model = toy_models.mlp(features=3, width=2, seed=3)
        path = self.folder / "apart" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
        return onnx.load(str(path), load_external_data=False)

    def _register(self, name: str, model: onnx.ModelProto) -> None:
        path = toy_models.save(model, self.folder / "apart" / "model.onnx")
        register_file(path, name, "a toy", self.settings)

    def judge(self, name: str, version: str, passed: bool) -> None:
        uri = f"models:/{name}/{version}"
        digest = registry.resolve(uri, self.settings).digest
        verdict = Verdict(uri, "", digest, "", (Check("auc", passed, "measured", 0.9, limit=0.8),))
        evaluate.store_verdict(self.client, uri, verdict, {"evaluation.json": "{}"}, self.settings)

    def _keep(self) -> None:
        with (
            sqlite3.connect(self.home / "mlflow.db") as here,
            sqlite3.connect(self.folder / "kept.db") as kept,
        ):
            here.backup(kept)
        for name in ("artifacts", "records"):
            shutil.copytree(self.home / name, self.folder / name)

    def undo(self, *names: str) -> None:
        """Put the database back to what it was, and files: artifacts, and what this user has seen of the record."""
        with (
            sqlite3.connect(self.home / "mlflow.db") as here,
            sqlite3.connect(self.folder / "kept.db") as kept,
        ):
            kept.backup(here)
        for name in names or ("artifacts", "records"):
            shutil.rmtree(self.home / name, ignore_errors=True)
            shutil.copytree(self.folder / name, self.home / name)

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with sqlite3.connect(self.home / "mlflow.db") as held:
            yield held

    def write(self, statement: str, *values: Any) -> None:
        with self.database() as held:
            assert held.execute(statement, values).rowcount > 0, (statement, values)

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with self.database() as held:
            return held.execute(statement, values).fetchall()

    def notices(self, seen: bool = True) -> list[str]:
        """Who notices that something is wrong: the history, or a use of a version."""
        noticed = []
        if not seen:
            shutil.rmtree(self.home / "records", ignore_errors=True)
        record = history.read_history(self.client, GOOD, self.settings)
        if record.problems:
            return [f"history: {record.problems[0]}"]
        for uri in (f"models:/{GOOD}@champion", *(f"models:/{GOOD}/{number}" for number in range(1, 6))):
            try:
                found = registry.resolve(uri, self.settings)
                if found.manifest is None:
                    noticed.append(f"{uri} is served with a warning")
            except RaymlopsError as error:
                noticed.append(f"resolve: {error}")
        return noticed

    def require_safe(self) -> None:
        """Whatever was changed: what the gate blocked is not promoted, and nothing is rolled back over problems."""
        verbs: list[Callable[[], Any]] = [
            lambda: promotion.move_alias(GOOD, BLOCKED, "champion", "please", self.settings)
        ]
        if history.read_history(self.client, GOOD, self.settings).problems:
            verbs.append(lambda: promotion.roll_back(GOOD, "please", self.settings))
        for verb in verbs:
            try:
                done = verb()
            except RaymlopsError:
                continue
            raise AssertionError(f"it was done all the same: {done}")


def list_forgeries(world: World) -> Iterator[Forgery]:
    """Every single change, by kind."""
    yield from _change_tags(world, "registered_model_tags", "name = ?", ("name", "key"))
    yield from _change_tags(world, "model_version_tags", "name = ?", ("name", "version", "key"))
    yield from _change_aliases(world)
    yield from _change_files(world)
    yield from _change_versions(world)
    yield from _sign_with_another_key(world)


def _change_tags(world: World, table: str, where: str, keys: tuple[str, ...]) -> Iterator[Forgery]:
    columns = ", ".join((*keys, "value"))
    rows = world.rows(f"SELECT {columns} FROM {table} WHERE {where}", GOOD)
    others = world.rows(f"SELECT {columns} FROM {table} WHERE {where}", OTHER)
    rows = [row for row in rows if row[-2].startswith("raymlops.") and ".lease." not in row[-2]]
    match = " AND ".join(f"{key} = ?" for key in keys)
    for row in rows:
        *key, value = row
        label = f"{table} {' '.join(map(str, key[1:]))}"
        edited = value[:-2] + ("0" if value[-2:-1] != "0" else "1") + value[-1:] if len(value) > 1 else "x"
        update = f"UPDATE {table} SET value = ? WHERE {match}"
        yield Forgery(f"edit {label}", lambda u=update, e=edited, k=key: world.write(u, e, *k))
        drop = f"DELETE FROM {table} WHERE {match}"
        yield Forgery(f"drop {label}", lambda d=drop, k=key: world.write(d, *k))
        rename = f"UPDATE {table} SET key = ? WHERE {match}"
        yield Forgery(f"rename {label}", lambda r=rename, k=key: world.write(r, f"{k[-1]}0", *k))
        twin = next((other for other in rows if other[-2] != key[-1] and other[-1] != value), None)
        if twin is not None:
            yield Forgery(
                f"swap {label} with {twin[-2]}",
                lambda u=update, k=key, t=twin, v=value: (
                    world.write(u, t[-1], *k), world.write(u, v, *t[:-1])
                ),
            )  # fmt: skip
        alike = [o for o in others if o[-2].split(".")[:2] == key[-1].split(".")[:2] and o[-1] != value]
        for number, other in enumerate(alike[:2]):
            yield Forgery(
                f"replay {label} from {OTHER} {number}",
                lambda u=update, k=key, o=other: world.write(u, o[-1], *k),
            )
        if key[-1].startswith(history.TAG):
            insert = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * (len(keys) + 1))})"
            copy = f"{history.TAG}000099.{key[-1][-16:]}"
            yield Forgery(
                f"duplicate {label}", lambda i=insert, k=key, v=value, c=copy: world.write(i, *k[:-1], c, v)
            )


def _change_aliases(world: World) -> Iterator[Forgery]:
    for alias in ("champion", "challenger"):
        for version in range(1, 6):
            now = str(world.client.get_registered_model(GOOD).aliases[alias])
            if str(version) != now:
                yield Forgery(
                    f"alias {alias} to version {version}",
                    lambda a=alias, v=version: world.client.set_registered_model_alias(GOOD, a, str(v)),
                )
        yield Forgery(
            f"drop alias {alias}", lambda a=alias: world.client.delete_registered_model_alias(GOOD, a)
        )
    yield Forgery("a new alias", lambda: world.client.set_registered_model_alias(GOOD, "live", BLOCKED))


def _change_files(world: World) -> Iterator[Forgery]:
    runs = {
        str(version.version): str(version.run_id)
        for version in world.client.search_model_versions(f"name='{GOOD}'")
    }
    runs["record"] = str(world.client.get_registered_model(GOOD).tags[record_run.RUN_TAG])
    for number, run in runs.items():
        root = pathlib.Path(world.client.get_run(run).info.artifact_uri.removeprefix("file://"))
        heads = sorted(root.glob("heads/*/*.json"))[:-1]  # those before the last say nothing that it does not
        named = _manifests_in_use(world) if number == "record" else set()
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            if path in heads or (path.parent.parent.name == "manifests" and path.stem not in named):
                continue
            label = f"{number}/{path.relative_to(root)}"
            yield Forgery(f"edit file {label}", lambda p=path: _flip(p))
            yield Forgery(f"drop file {label}", lambda p=path: p.unlink())
            alike = [
                o
                for o in root.rglob(f"*{path.suffix}")
                if o.is_file() and o.read_bytes() != path.read_bytes()
            ]
            if alike:
                yield Forgery(f"replace file {label}", lambda p=path, o=alike[0]: shutil.copy(o, p))
    folders = [
        world.client.get_run(runs[number]).info.artifact_uri.removeprefix("file://") for number in "12"
    ]
    models = [pathlib.Path(folder, "model", "model.onnx") for folder in folders]
    yield Forgery("the model of another version", lambda: shutil.copy(*models))
    digest = attestation.digest_of(models[0].read_bytes())
    yield Forgery(
        "the model of another version, and its digest",
        lambda: (
            shutil.copy(*models), world.client.set_model_version_tag(GOOD, "2", "raymlops.sha256", digest)
        ),
    )  # fmt: skip


def _manifests_in_use(world: World) -> set[str]:
    return set(history.read_record(world.client, GOOD, world.settings).manifests.values())


def _flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _change_versions(world: World) -> Iterator[Forgery]:
    client = world.client

    def made_anew() -> None:
        source, run = client.get_model_version(GOOD, "1").source, client.get_model_version(GOOD, "1").run_id
        tags = dict(client.get_model_version(GOOD, "5").tags)
        for table in (
            "model_version_tags",
            "model_versions",
        ):  # MLflow itself would not give the number again
            world.write(f"DELETE FROM {table} WHERE name = ? AND version = ?", GOOD, 5)
        made = client.create_model_version(GOOD, source, run, tags=tags).version
        assert str(made) == "5", made

    def copied_evidence() -> None:
        for key, value in dict(client.get_model_version(GOOD, "2").tags).items():
            client.set_model_version_tag(GOOD, BLOCKED, key, value)

    def copied_file_too() -> None:
        copied_evidence()
        champion, blocked = (client.get_model_version(GOOD, version).source for version in ("2", BLOCKED))
        shutil.copy(
            f"{champion}/model.onnx".removeprefix("file://"), f"{blocked}/model.onnx".removeprefix("file://")
        )

    def stripped() -> None:
        world.write("DELETE FROM registered_model_tags WHERE name = ?", GOOD)
        world.write("DELETE FROM model_version_tags WHERE name = ?", GOOD)

    def forged_pass() -> None:
        for key, value in (("raymlops.gate", "passed"), ("raymlops.verdict", "ab" * 32)):
            client.set_model_version_tag(GOOD, "5", key, value)

    def forged_pass_of_blocked() -> None:
        client.set_model_version_tag(GOOD, BLOCKED, "raymlops.gate", "passed")

    def earlier_verdict() -> None:
        entries = history.read_record(client, GOOD, world.settings).entries
        first = next(entry for entry in entries if entry.version == BLOCKED)
        client.set_model_version_tag(GOOD, BLOCKED, "raymlops.manifest", first.manifest)

    def cut_tail() -> None:
        last = history.read_record(client, GOOD, world.settings).entries[-1]
        client.delete_registered_model_tag(GOOD, history.key_of(last))
        client.delete_registered_model_alias(GOOD, "challenger")
        run = client.get_registered_model(GOOD).tags[record_run.RUN_TAG]
        root = pathlib.Path(client.get_run(run).info.artifact_uri.removeprefix("file://"))
        max(root.glob("heads/*/*.json")).unlink()
        before = history.read_record(client, GOOD, world.outsider).entries
        anchors = {entry.version: history.anchor_of(entry) for entry in before if entry != last}
        client.set_model_version_tag(GOOD, last.version, "raymlops.history", anchors[last.version])

    yield Forgery("a version made anew", made_anew)
    yield Forgery("evidence of another version", copied_evidence)
    yield Forgery("evidence and file of another version", copied_file_too)
    yield Forgery("all tags gone", stripped)
    yield Forgery("a forged pass", forged_pass)
    yield Forgery("a forged pass of what was blocked", forged_pass_of_blocked)
    yield Forgery("an earlier verdict", earlier_verdict)
    yield Forgery("a tail that was cut everywhere", cut_tail, seen=True)
    yield Forgery("the champion's version deleted", lambda: client.delete_model_version(GOOD, "2"))
    yield Forgery(
        "the run of the record deleted",
        lambda: client.delete_tag(
            client.get_registered_model(GOOD).tags[record_run.RUN_TAG], record_run.RUN_TAG
        ),
    )


def _sign_with_another_key(world: World) -> Iterator[Forgery]:
    client = world.client
    attestation.load_signing_key(world.outsider)
    eve = attestation.load_signing_key(world.outsider)

    def entry() -> None:
        last = history.read_record(client, GOOD, world.settings).entries[-1]
        made = dataclasses.replace(
            last,
            index=last.index + 1,
            parent=last.digest,
            alias="champion",
            version=BLOCKED,
            number=last.number + 1,
        )
        client.set_registered_model_tag(GOOD, history.key_of(made), history.write_entry(made, eve))
        client.set_registered_model_alias(GOOD, "champion", BLOCKED)

    def head_too() -> None:
        entry()
        tags = client.get_registered_model(GOOD).tags
        texts = [value for key, value in tags.items() if key.startswith(history.TAG)]
        last = max((history.read_entry(text)[0] for text in texts), key=lambda held: held.index)
        run = client.get_registered_model(GOOD).tags[record_run.RUN_TAG]
        record_run.write_head(
            client, run, record_run.Head(GOOD, last.index, last.digest, last.number, run), eve
        )

    def manifest() -> None:
        record = history.read_record(client, GOOD, world.settings)
        held = json.loads(record_run.read_manifest(client, record.run, record.manifests[BLOCKED]))
        payload = attestation.verify(
            json.dumps(held), attestation.STATEMENT_PAYLOAD, attestation.load_trusted_keys(world.settings)
        ).payload
        forged = payload.replace(b'"passed":false', b'"passed":true')
        assert forged != payload
        digest = attestation.digest_of(forged)
        record_run.write_manifest(client, record.run, digest, eve.sign(forged, attestation.STATEMENT_PAYLOAD))
        client.set_model_version_tag(GOOD, BLOCKED, "raymlops.manifest", digest)

    def same_manifest() -> None:
        record = history.read_record(client, GOOD, world.settings)
        digest = record.manifests["2"]
        payload = attestation.verify(
            record_run.read_manifest(client, record.run, digest),
            attestation.STATEMENT_PAYLOAD,
            attestation.load_trusted_keys(world.settings),
        ).payload
        record_run.write_manifest(
            client, record.run, digest, eve.sign(payload, attestation.STATEMENT_PAYLOAD)
        )

    yield Forgery("an entry signed by an outsider", entry)
    yield Forgery("an entry and a head signed by an outsider", head_too)
    yield Forgery("a manifest signed by an outsider", manifest)
    yield Forgery("the same manifest signed by an outsider", same_manifest)
