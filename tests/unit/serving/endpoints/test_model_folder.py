"""Folders of models as people have them: what cannot be served is told with its reason, and stops nothing else."""

import asyncio
import functools
import json
import logging
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import fsspec
import httpx
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from raymlops.errors import ArtifactError, NotFoundError, OverloadedError, RaymlopsError, StorageError
from raymlops.models import isolated_session
from raymlops.models.model_trial import ModelTrials
from raymlops.models.process_mac import code_of, has_code
from raymlops.runtime import sources
from raymlops.runtime.model_files import LocalFiles, digest_listing, open_folder
from raymlops.serving.actors.shared_repository import RepositoryState, SharedRepository
from raymlops.serving.deploy.spec_trial import try_models
from raymlops.serving.endpoints import lazy_models
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.endpoints.model_folder import read_entries
from raymlops.serving.transport.api_keys import ROLES, KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from raymlops.settings import Settings
from raymlops.specs.serving import NAME, ManyModels, ServingSpec
from tests import toy_models
from tests.unit.models.test_model_trial import ends_the_process

KEY = {"x-api-key": ""}


def scaler(by: float, **metadata: str) -> bytes:
    """x FP32[-1,2] -> y = by x; of one structure whatever `by` is."""
    model = toy_models.make(
        [helper.make_node("Mul", ["x", "by"], ["y"])],
        [toy_models.value("x", TensorProto.FLOAT, "n", 2)],
        [toy_models.value("y", TensorProto.FLOAT, "n", 2)],
        [numpy_helper.from_array(np.full(2, by, np.float32), "by")],
    )
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


def save(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """A file that was written some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def make_host(folder: pathlib.Path | str, **options: Any) -> LazyModels:
    return LazyModels(ManyModels(folder=str(folder), **options))


def make_client(host: LazyModels | SharedRepository, models: dict[str, Any]) -> Callable[..., httpx.Response]:
    token, key = make_key("ops", ROLES)
    plane = DataPlane(Hosts("test", models, repository=host), KeyRing([key]))

    def ask(method: str, path: str, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=plane)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers={"x-api-key": token}, **request)

        return asyncio.run(send())

    return ask


def infer(host: LazyModels, name: str) -> float:
    """What the model multiplies by."""

    async def go() -> float:
        answer = await host.hosted[name].endpoint.infer({"x": np.ones((1, 2), np.float32)})
        return float(answer["y"][0, 0])

    return asyncio.run(go())


def look(host: LazyModels) -> None:
    host.looked = float("-inf")
    asyncio.run(host.refresh())


def with_weights_elsewhere() -> bytes:
    model = onnx.ModelProto.FromString(scaler(2))
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    return model.SerializeToString()


def of_operator(operator: str, domain: str = "") -> bytes:
    model = onnx.ModelProto.FromString(scaler(2))
    model.graph.node[0].op_type, model.graph.node[0].domain = operator, domain
    return model.SerializeToString()


def without_shape() -> bytes:
    model = onnx.ModelProto.FromString(scaler(2))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model.SerializeToString()


CONTENTS: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "'bad.onnx' holds no graph"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "'bad.onnx' is not an ONNX file"),
    "truncated": (scaler(2)[:-20], "'bad.onnx' is not an ONNX file, or it is truncated"),
    "noise": (bytes(range(256)) * 8, "'bad.onnx' is not an ONNX file"),
    "a contract that is no JSON": (scaler(2, **{"raymlops.contract": "{"}), "contract"),
    "a contract of another kind": (scaler(2, **{"raymlops.contract": "[1]"}), "contract in the model is list"),
    "columns that are none": (scaler(2, **{"raymlops.contract": '{"columns": 7}'}), "columns of the contract"),
    "a column without a name": (scaler(2, **{"raymlops.contract": '{"columns": [{}, 3]}'}), "with a name and a kind"),
    "a target that is none": (scaler(2, **{"raymlops.contract": '{"target": [1]}'}), ""),
    "weights elsewhere": (with_weights_elsewhere(), "export it as one file"),
    "a foreign operator": (of_operator("Steal", "acme"), "uses operator 'Steal' of a foreign library"),
    "no shape": (without_shape(), "'x' has no shape"),
    "too large": (scaler(2) + b"\x32" + b"\x83\x40" + b"x" * 8195, "bytes; at most 8000 are accepted"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_that_cannot_be_served_is_told_and_stops_nothing(kind: str, tmp_path: pathlib.Path) -> None:
    data, reason = CONTENTS[kind]
    save(tmp_path / "bad.onnx", data)
    save(tmp_path / "good.onnx", scaler(3))
    host = make_host(tmp_path, memory_mb=0.008)
    assert infer(host, "good") == 3
    ask = make_client(host, host.hosted)
    index = {entry["name"]: entry for entry in ask("POST", "/v2/repository/index").json()}
    assert set(index) == {"bad", "good"}
    if "bad" in host.hosted:  # what is odd about it harms nothing
        assert not reason
        assert infer(host, "bad") == 2
        return
    assert reason in index["bad"]["reason"]
    assert index["bad"]["state"] == "UNAVAILABLE"
    assert str(tmp_path) not in index["bad"]["reason"]
    for method, path in (
        ("POST", "/v2/models/bad/infer"),
        ("GET", "/v2/models/bad"),
        ("POST", "/v2/repository/models/bad/load"),
    ):
        answer = ask(method, path, json={"inputs": []} if path.endswith("infer") else None)
        assert (answer.status_code, reason in answer.json()["error"]) == (422, True)
    assert ask("GET", "/v2/models/bad/ready").status_code == 503
    assert ask("GET", "/v2/health/ready").status_code == 200
    for path in ("/metrics", "/openapi.json", "/docs", "/v2/models/stats"):
        assert ask("GET", path).status_code == 200
    save(tmp_path / "bad.onnx", scaler(5))  # fixed, it is served
    look(host)
    assert infer(host, "bad") == 5


def make_pipe(path: pathlib.Path) -> None:
    os.mkfifo(path)


def make_socket(path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


KINDS: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "a pipe": (make_pipe, "it is a pipe"),
    "a socket": (make_socket, "it is a socket"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "a link to a file that does not exist"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "an empty folder": (lambda path: path.mkdir(), "holds no .onnx file"),
    "a folder of pipes": (lambda path: (path.mkdir(), make_pipe(path / "model.onnx")), "it is a pipe"),
    "a folder of several": (
        lambda path: [save(path / f"{name}.onnx", scaler(1)) for name in ("a", "b")],
        "holds several models (a.onnx, b.onnx)",
    ),
    "folders in folders": (lambda path: save(path / "deep" / "er" / "m.onnx", scaler(1)), "holds no .onnx file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_told_and_read_by_nobody(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reason = KINDS[kind]
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    (tmp_path / "m").mkdir()
    make(pathlib.Path("m/bad.onnx"))
    save(tmp_path / "m" / "good.onnx", scaler(3))
    host = make_host(tmp_path / "m")
    assert reason in host.unavailable["bad"]
    assert infer(host, "good") == 3


def test_a_file_that_may_not_be_read_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so that the refusal is made here."""
    save(tmp_path / "secret.onnx", scaler(2))
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("secret.onnx"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert make_host(tmp_path).unavailable == {"secret": "'secret.onnx' cannot be read: Permission denied"}


def test_versions_of_a_name_are_names_of_their_own(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "m.v1.onnx", scaler(1))
    save(tmp_path / "m.v2.onnx", scaler(2))
    save(tmp_path / "m.v3" / "model.onnx", scaler(3))
    save(tmp_path / "m.v4" / "any.onnx", scaler(4))
    save(tmp_path / "m.v5.onnx" / "model.onnx", scaler(5))
    host = make_host(tmp_path)
    assert {name: infer(host, name) for name in host.hosted} == {f"m.v{i}": i for i in range(1, 6)}


def test_of_tritons_folders_the_highest_version_is_served(tmp_path: pathlib.Path) -> None:
    for version in (1, 2, 10):
        save(tmp_path / "m" / str(version) / "model.onnx", scaler(version))
    save(tmp_path / "m" / "config.pbtxt", b'name: "m"')
    save(tmp_path / "m" / "old" / "model.onnx", scaler(7))
    (tmp_path / "m" / "11").mkdir()  # which is not filled yet
    host = make_host(tmp_path)
    assert infer(host, "m") == 10
    ask = make_client(host, host.hosted)
    assert ask("GET", "/v2/models/m").json()["versions"] == ["10"]
    assert ask("GET", "/v2/models/m/versions/10/ready").status_code == 200
    assert ask("GET", "/v2/models/m/versions/2").status_code == 404


def test_two_files_of_one_name_are_told(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "m.onnx", scaler(1))
    save(tmp_path / "m" / "model.onnx", scaler(2))
    save(tmp_path / "M.onnx", scaler(3))
    host = make_host(tmp_path)
    assert host.unavailable == {"m": "both 'm' and 'm.onnx' are models of this name; keep one of them"}
    assert infer(host, "M") == 3
    assert "models 'M', 'm' differ by upper and lower case only" in caplog.text


def test_a_name_that_the_application_has_already_stays_what_it_is(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "m.onnx", scaler(1))
    other: Any = object()
    host = LazyModels(ManyModels(folder=str(tmp_path)), hosted={"m": other})
    assert host.hosted == {"m": other}
    assert "a model or graph of the application has this name" in host.unavailable["m"]


NAMES = [
    "a\nb", "a\r\nx-evil: 1", "a\tb", "a b", "a\x01b", "\x1b[31mred", "a\u2215b", "ab\u202egpj",
    "\u0440aypal", "e\u0301", "\ufeffm", "m\u200b", "-m", "%2e%2e", "m?x=1", "m#x", 'm"x', "m{x}", "m,x",
    "n" * 101,     "stats", "m:predict", b"\xff\xfe".decode(errors="surrogateescape"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_reaches_no_header_is_told_and_not_served(
    name: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / f"{name}.onnx", scaler(1))
    save(tmp_path / f"{name}x" / "model.onnx", scaler(1))
    save(tmp_path / "good.onnx", scaler(3))
    (tmp_path / "lost+found").mkdir()
    host = make_host(tmp_path)
    expected = {"good", "statsx"} if name == "stats" else {"good"}
    assert set(host.hosted) == expected
    assert not host.unavailable
    assert caplog.text.count("is not served: the name of a model") == (1 if name == "stats" else 2)
    assert "lost+found" not in caplog.text
    assert all(character.isprintable() for record in caplog.records for character in record.getMessage())
    assert make_client(host, host.hosted)("GET", "/v2/models").json()["models"] == sorted(expected)


@given(st.dictionaries(st.text(min_size=1, max_size=30), st.sampled_from(["file", "folder"]), max_size=8))
def test_whatever_a_folder_holds_its_names_are_plain_and_distinct(held: dict[str, str]) -> None:
    from raymlops.runtime.model_files import File

    file = File(1, (1,))
    listing = {
        (f"{name}.onnx" if kind == "file" else name): (
            {f"{name}.onnx": file} if kind == "file" else {f"{name}/model.onnx": file}
        )
        for name, kind in held.items()
    }
    entries = read_entries(listing)
    assert all(NAME.fullmatch(name) for name in entries.models)
    paths = [entry.path for entry in entries.models.values() if not entry.fault]
    assert len(set(paths)) == len(paths)
    refused = [name for name in listing if not NAME.fullmatch(name.removesuffix(".onnx"))]
    assert len(entries.notices) >= len(refused)


def test_files_that_are_added_removed_and_replaced(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "a.onnx", scaler(1))
    host = make_host(tmp_path)
    ask = make_client(host, host.hosted)
    assert infer(host, "a") == 1
    save(tmp_path / "b.onnx", scaler(2))
    assert ask("POST", "/v2/models/b/infer", json={"inputs": []}).status_code == 404
    assert ask("POST", "/v2/repository/models/b/load").status_code == 200  # finds it
    assert infer(host, "b") == 2
    save(tmp_path / "c.onnx", scaler(3))
    host.looked = float("-inf")
    assert "c" in {
        entry["name"] for entry in ask("POST", "/v2/repository/index").json()
    }  # and so does the index
    assert infer(host, "c") == 3
    save(tmp_path / "a.onnx", scaler(10))
    look(host)
    assert infer(host, "a") == 1  # it is still in memory
    index = {entry["name"]: entry for entry in ask("POST", "/v2/repository/index").json()}
    assert "has changed since this replica started" in index["a"]["reason"]
    assert ask("POST", "/v2/repository/models/a/load").status_code == 200
    assert infer(host, "a") == 10
    (tmp_path / "b.onnx").unlink()
    look(host)
    assert ask("POST", "/v2/models/b/infer", json={"inputs": []}).status_code == 404
    assert ask("POST", "/v2/repository/models/b/load").status_code == 404
    assert host.cache.held == sum((tmp_path / f"{name}.onnx").stat().st_size for name in "ac")


def test_a_file_that_is_still_written_is_waited_for(tmp_path: pathlib.Path) -> None:
    host = make_host(save(tmp_path / "a.onnx", scaler(1)).parent)
    (tmp_path / "b.onnx").write_bytes(scaler(2)[:50])
    look(host)
    assert "b" not in host.unavailable
    with pytest.raises(ArtifactError, match="truncated"):  # who asks for it is told
        asyncio.run(host.load("b"))
    save(tmp_path / "b.onnx", scaler(2))
    look(host)
    assert infer(host, "b") == 2


def test_a_load_that_fails_leaves_what_answered_before(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "a.onnx", scaler(1))
    host = make_host(tmp_path)
    assert infer(host, "a") == 1
    save(tmp_path / "a.onnx", b"half of")
    with pytest.raises(
        ArtifactError, match=r"not an ONNX file.*the model that was found before keeps answering"
    ):
        asyncio.run(host.load("a"))
    assert infer(host, "a") == 1
    with pytest.raises(NotFoundError, match="Unknown model 'b'"):
        asyncio.run(host.load("b"))


def test_a_folder_that_cannot_be_looked_at_takes_nothing_away(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host(save(tmp_path / "zoo" / "a.onnx", scaler(1)).parent)
    (tmp_path / "zoo").rename(tmp_path / "away")
    look(host)
    assert "those found so far are served" in caplog.text
    with pytest.raises(NotFoundError, match=r"'a\.onnx'"):
        infer(host, "a")
    (tmp_path / "away").rename(tmp_path / "zoo")
    assert infer(host, "a") == 1


def test_unloading_frees_the_memory_and_loading_tells_why_it_cannot(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "a.onnx", scaler(1))
    broken = onnx.ModelProto.FromString(scaler(2))
    broken.opset_import[0].version = 99  # which no session can be made of
    save(tmp_path / "b.onnx", broken.SerializeToString())
    host = make_host(tmp_path)
    ask = make_client(host, host.hosted)
    assert ask("POST", "/v2/repository/models/a/load").status_code == 200
    assert host.cache.held
    assert ask("POST", "/v2/repository/models/a/unload").status_code == 200
    assert not host.cache.held
    answer = ask("POST", "/v2/repository/models/b/load")
    assert answer.status_code == 422
    assert "ONNX Runtime cannot load" in answer.json()["error"]
    index = {entry["name"]: entry["reason"] for entry in ask("POST", "/v2/repository/index").json()}
    assert index["a"] == "it was unloaded; POST /v2/repository/models/a/load"
    assert "ONNX Runtime cannot load" in index["b"]


class Replicas:
    """Two replicas of one deployment over one folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.state = RepositoryState()
        self.hosts = [make_host(folder) for _ in range(2)]
        self.repositories = [SharedRepository(host, self, "one", 0) for host in self.hosts]

    async def call(self, method: str, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return getattr(self.state, method)(*arguments)

    async def settle(self) -> None:
        for _ in range(4):
            for host, repository in zip(self.hosts, self.repositories, strict=True):
                host.looked = float("-inf")
                await repository.refresh()
                await repository.follow()

    async def answers(self, host: LazyModels) -> dict[str, float | str]:
        told: dict[str, float | str] = dict.fromkeys(host.unavailable, "unavailable")
        for name, hosted in host.hosted.items():
            try:
                answer = await hosted.endpoint.infer({"x": np.ones((1, 2), np.float32)})
                told[name] = float(answer["y"][0, 0]) if hosted.ready else "served though unloaded"
            except RaymlopsError as error:
                told[name] = "unloaded" if not hosted.ready else type(error).__name__
        return told


class OtherFolders(Replicas):
    """Two replicas, each with a folder of its own, as two machines may have."""

    def __init__(self, one: pathlib.Path, other: pathlib.Path) -> None:
        self.state = RepositoryState()
        self.hosts = [make_host(one), make_host(other)]
        self.repositories = [SharedRepository(host, self, "one", 0) for host in self.hosts]


def test_a_file_that_the_others_do_not_serve_is_refused_once_and_looked_at_when_it_has_changed(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for name, by in {"a": 1, "b": 2}.items():
        save(one / f"{name}.onnx", scaler(by))
    save(other / "a.onnx", scaler(3))  # and no b

    async def go() -> None:
        replicas = OtherFolders(one, other)
        host = replicas.hosts[1]
        await replicas.settle()
        with monkeypatch.context() as patch:
            patch.setattr(host._files, "list", None)
            for _ in range(5):
                await replicas.repositories[1].follow()
        assert await replicas.answers(host) == {"a": "unavailable"}
        assert caplog.text.count("not the one that the other replicas serve") == 1
        save(other / "a.onnx", scaler(1))
        save(other / "b.onnx", scaler(2))
        await replicas.settle()
        assert await replicas.answers(host) == {"a": 1, "b": 2}
        save(one / "a.onnx", scaler(4))
        save(other / "a.onnx", scaler(4))
        await replicas.repositories[0].load("a")  # all agree on another file
        await replicas.repositories[1].follow()
        assert await replicas.answers(host) == {"a": 4, "b": 2}

    asyncio.run(go())


def test_a_file_that_could_not_be_read_when_the_others_took_it_is_read_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise StorageError("The store does not answer")

    monkeypatch.setattr(lazy_models, "DISAGREED_S", 0.0)

    async def go() -> None:
        replicas = Replicas(tmp_path)
        one, other = replicas.repositories
        await replicas.settle()
        save(tmp_path / "a.onnx", scaler(2))
        await one.load("a")
        with monkeypatch.context() as patch:
            patch.setattr(replicas.hosts[1]._files, "read", fail)
            await other.follow()
        assert "a" in replicas.hosts[1].unavailable
        await other.follow()
        assert replicas.hosts[0].digests == replicas.hosts[1].digests

    save(tmp_path / "a.onnx", scaler(1))
    asyncio.run(go())


OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from("abc"), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.sampled_from("abc"), st.just(0)),
    st.tuples(st.sampled_from(["load", "unload"]), st.sampled_from("abc"), st.integers(0, 1)),
    st.tuples(st.sampled_from(["look", "follow", "ask"]), st.just("a"), st.integers(0, 1)),
    st.tuples(st.just("lose"), st.just("a"), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(OPERATIONS, max_size=14))
def test_two_replicas_agree_whatever_happens_to_the_folder_and_to_them(
    operations: list[tuple[str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("zoo")
    save(folder / "a.onnx", scaler(1))

    async def go() -> None:
        replicas = Replicas(folder)
        for what, name, number in operations:
            path, host = folder / f"{name}.onnx", replicas.hosts[number % 2]
            try:
                if what == "write":
                    save(path, scaler(number) if number else b"no model")
                elif what == "remove":
                    path.unlink(missing_ok=True)
                elif what == "lose":
                    replicas.state = RepositoryState()
                elif what == "look":
                    host.looked = float("-inf")
                    await host.refresh()
                elif what == "ask":
                    await replicas.answers(host)
                elif what == "follow":
                    await replicas.repositories[number].follow()
                else:
                    await getattr(replicas.repositories[number], what)(name)
            except (ArtifactError, NotFoundError):
                pass
        await replicas.settle()
        one, other = [await replicas.answers(host) for host in replicas.hosts]
        served = [
            {name: told for name, told in answers.items() if told not in ("ArtifactError", "unavailable")}
            for answers in (one, other)
        ]
        # A file that was replaced is answered by who has it in memory, and refused by the other, until it is loaded.
        assert one.keys() == other.keys()
        assert all(served[0][name] == served[1][name] for name in served[0].keys() & served[1].keys())
        for name in one:
            if (folder / f"{name}.onnx").read_bytes() == b"no model":
                save(folder / f"{name}.onnx", scaler(9))
            await replicas.repositories[0].load(name)
        await replicas.settle()
        one, other = [await replicas.answers(host) for host in replicas.hosts]
        assert one == other
        for host in replicas.hosts:
            assert host.cache.held == sum(
                host.cache.sizes[key] for key in host.cache.sizes if host.cache.state(key) == "READY"
            )
            assert len(host.cache.sizes) == len(host.hosted)

    asyncio.run(go())


def test_loads_and_requests_at_once_answer_with_one_file_or_the_other(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "a.onnx", scaler(0))
    host = make_host(tmp_path)

    async def go() -> None:
        stop = False
        seen: set[float] = set()
        refused: set[str] = set()

        async def ask() -> None:
            while not stop:
                try:
                    answer = await host.hosted["a"].endpoint.infer({"x": np.ones((1, 2), np.float32)})
                    seen.add(float(answer["y"][0, 0]))
                except OverloadedError:
                    pass
                except ArtifactError as error:
                    refused.add(str(error))
                await asyncio.sleep(0)

        asking = [asyncio.ensure_future(ask()) for _ in range(4)]
        for number in range(20):
            save(tmp_path / "a.onnx", scaler(number))
            await host.load("a")
            answer = await host.hosted["a"].endpoint.infer({"x": np.ones((1, 2), np.float32)})
            assert answer["y"][0, 0] == number
        stop = True
        await asyncio.gather(*asking)
        assert all("has changed" in reason for reason in refused)
        assert seen <= set(map(float, range(20)))
        assert len(host.cache.sizes) == 1

    asyncio.run(asyncio.wait_for(go(), 120))


def test_a_remote_folder_is_served_like_one_of_this_machine() -> None:
    files = fsspec.filesystem("memory")
    files.makedirs("/zoo", exist_ok=True)
    try:
        files.pipe("/zoo/a.onnx", scaler(1))
        files.pipe("/zoo/b/1/model.onnx", scaler(2))
        files.pipe("/zoo/b/2/model.onnx", scaler(3))
        files.pipe("/zoo/bad.onnx", b"no model")
        host = make_host("memory://zoo")
        assert {name: infer(host, name) for name in host.hosted} == {"a": 1, "b": 3}
        assert "'bad.onnx' is not an ONNX file" in host.unavailable["bad"]
        listing = digest_listing("memory://zoo")
        files.pipe("/zoo/a.onnx", scaler(4))
        files.pipe("/zoo/c.onnx", scaler(5))
        assert digest_listing("memory://zoo") not in (listing, "")
        look(host)
        asyncio.run(host.load("a"))
        assert {name: infer(host, name) for name in sorted(host.hosted)} == {"a": 4, "b": 3, "c": 5}
        files.rm("/zoo/c.onnx")
        look(host)
        assert set(host.hosted) == {"a", "b"}
        assert not host.cache._short  # a server that is slow must not hold the event loop
    finally:
        files.rm("/zoo", recursive=True)
    with pytest.raises(NotFoundError, match="No files below 'memory://zoo'"):
        make_host("memory://zoo")


def test_a_folder_that_is_not_there_is_told_before_anything_is_deployed(
    tmp_path: pathlib.Path,
) -> None:
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path)})
    files = fsspec.filesystem("memory")
    save(tmp_path / "zoo" / "bad.onnx", b"no model")
    files.pipe("/there/a.onnx", scaler(1))
    for folder in (str(tmp_path / "zoo"), "memory://there"):
        spec = ServingSpec.model_validate({"name": "zoo", "many": {"folder": folder}})
        pinned = sources.pin(spec, settings)
        assert pinned.many is not None
        assert pinned.many.listing
        try_models(pinned, settings)
    files.rm("/there", recursive=True)
    for folder in (str(tmp_path / "none"), "memory://none"):
        spec = ServingSpec.model_validate({"name": "zoo", "many": {"folder": folder}})
        with pytest.raises(NotFoundError, match="does not exist; every node must have it"):
            try_models(sources.pin(spec, settings), settings)


@pytest.mark.parametrize(
    "location", ["reference://a.json", "simplecache::s3://b/m", "dask://x", "nothing://x"]
)
def test_a_folder_that_would_run_code_is_refused(location: str) -> None:
    with pytest.raises(StorageError, match="may run what it finds"):
        make_host(location)


def test_a_model_that_ends_its_process_ends_none_of_ours(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "bad.onnx", ends_the_process())
    save(tmp_path / "good.onnx", scaler(3))
    host = make_host(tmp_path)
    ask = make_client(host, host.hosted)
    for _ in range(2):
        answer = ask("POST", "/v2/repository/models/bad/load")
        assert (answer.status_code, "'bad.onnx' cannot be opened" in answer.json()["error"]) == (422, True)
    index = {entry["name"]: entry for entry in ask("POST", "/v2/repository/index").json()}
    assert "'bad.onnx' cannot be opened" in index["bad"]["reason"]
    assert infer(host, "good") == 3


@pytest.mark.parametrize("fault", ["it takes too long", "the system has no process left"])
def test_a_model_that_could_not_be_tried_for_want_of_a_process_is_tried_at_the_next_load(
    fault: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(lazy_models, "TRIALS", ModelTrials())
    save(tmp_path / "a.onnx", scaler(3))
    host = make_host(tmp_path)
    ask = make_client(host, host.hosted)
    with monkeypatch.context() as patch:
        if fault == "it takes too long":
            patch.setattr(isolated_session, "START_S", 0.001)
        else:
            patch.setattr(subprocess, "Popen", refuse)
        answer = ask("POST", "/v2/repository/models/a/load")
        assert (answer.status_code, "try again" in answer.json()["error"]) == (503, True)
    assert ask("POST", "/v2/repository/models/a/load").status_code == 200
    assert infer(host, "a") == 3


def test_deploying_again_is_another_deployment_once_files_differ(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "a.onnx", scaler(1))
    seen = [digest_listing(str(tmp_path))]
    assert digest_listing(str(tmp_path)) == seen[0]
    save(tmp_path / "b" / "model.onnx", scaler(1))
    seen.append(digest_listing(str(tmp_path)))
    save(tmp_path / "a.onnx", scaler(2))
    seen.append(digest_listing(str(tmp_path)))
    (tmp_path / "a.onnx").unlink()
    seen.append(digest_listing(str(tmp_path)))
    assert len(set(seen)) == 4
    assert digest_listing(str(tmp_path / "nothing")) == ""


@given(st.binary(max_size=300), st.integers(0, 10**6), st.integers(1, 255))
def test_other_bytes_have_another_code(data: bytes, place: int, by: int) -> None:
    code = code_of(data)
    assert has_code(data, code)
    assert not has_code(data + b"\0", code)
    if data:
        other = bytearray(data)
        other[place % len(data)] ^= by
        assert not has_code(bytes(other), code)
        assert not has_code(data[:-1], code)


def test_a_file_is_refused_whatever_its_times_say(tmp_path: pathlib.Path) -> None:
    """Other bytes of the same size, under the same inode, with the times set back."""
    path = save(tmp_path / "a.onnx", scaler(1))
    host = make_host(tmp_path)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(scaler(2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match="has changed"):
        infer(host, "a")


def test_a_load_takes_other_bytes_whatever_their_times_say(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.onnx", scaler(1))
    host = make_host(tmp_path)
    for by in (2, 3, 4):
        entries = host._files.list()
        path.write_bytes(scaler(by))
        with monkeypatch.context() as patch:  # as a clock of whole seconds has it
            patch.setattr(host._files, "list", functools.partial(dict, entries))
            asyncio.run(host.load("a"))
        assert infer(host, "a") == by


def test_optional_inputs_are_taken_and_stay_with_their_request(tmp_path: pathlib.Path) -> None:
    model = onnx.ModelProto.FromString(scaler(3))
    model.graph.input.append(toy_models.value("by", TensorProto.FLOAT, 2))
    for name in ("a", "b"):
        save(tmp_path / f"{name}.onnx", model.SerializeToString())
    ask = make_client(host := make_host(tmp_path), host.hosted)

    def multiply(*more: dict[str, Any]) -> Any:
        x = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}
        answer = ask("POST", "/v2/models/a/infer", json={"inputs": [x, *more]})
        return answer.json()["outputs"][0]["data"]

    for _ in range(3):
        assert multiply() == [3, 3]
        assert multiply({"name": "by", "shape": [2], "datatype": "FP32", "data": [5, 7]}) == [5, 7]


def test_a_listing_reads_no_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made every few seconds."""
    save(tmp_path / "a.onnx", scaler(1))
    make_pipe(tmp_path / "b.onnx")
    monkeypatch.setattr(os, "open", None)
    assert set(LocalFiles(tmp_path).list()) == {"a.onnx", "b.onnx"}
    assert json.dumps(open_folder(str(tmp_path)).where)
    logging.getLogger("raymlops.serving").debug("listed")
