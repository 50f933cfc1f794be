"""Requests over both protocols are found again with their answers, columns are dropped and hashed, persons deleted,
labels joined; and a store that takes nothing holds nobody up."""

import asyncio
import datetime
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from tritonclient.grpc import service_pb2 as pb

from raymlops.captures.labels import LABEL, LabelColumns, choose_columns, store_labels, take_last
from raymlops.captures.selection import Selection, hash_text, is_in_share
from raymlops.captures.store import CaptureStore
from raymlops.cli import main
from raymlops.errors import DataError, NotFoundError, SpecError
from raymlops.lifecycle.captures import labelling, reading
from raymlops.lifecycle.captures.deletion import delete_person
from raymlops.observers import Event
from raymlops.runtime import sources
from raymlops.runtime.observer_queue import ObserverQueue
from raymlops.serving.endpoints.capture import CaptureObserver, make_capture
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.endpoints.observers import Observers, make_event
from raymlops.serving.transport.api_keys import KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.monitoring import Capture
from raymlops.specs.serving import HostedModel, ServingSpec
from tests import toy_models
from tests.unit.serving.replica.test_grpc_methods import doubler, infer

URL, LABELS = "/v2/models/doubler/infer", "/v2/models/doubler/labels"
GRAPH = {
    "nodes": {"twice": {"kind": "model", "model": "?", "inputs": {"x": "inputs.x"}}},
    "outputs": {"y": "twice.y"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return toy_models.save(toy_models.doubler(), tmp_path_factory.mktemp("models") / "doubler.onnx")


class Captured:
    """A data plane that captures, without a thread: `stop` writes what was answered."""

    def __init__(
        self, model: pathlib.Path, folder: pathlib.Path, keys: KeyRing | None = None, **capture: Any
    ) -> None:
        graph = json.loads(json.dumps(GRAPH).replace("?", str(model)))
        given = {"models": {"doubler": {"source": str(model)}}, "graphs": {"twice": graph}}
        spec = validate_document(
            {**given, "capture": {"path": str(folder), **capture}}, ServingSpec, source="test"
        )
        settings = Settings.from_env()
        spec = sources.pin(spec, settings)
        hosted = {
            "doubler": host_model("doubler", model, HostedModel(source=str(model), version="3")),
            "twice": host_graph("twice", prepare_graph(spec.graphs["twice"], settings), {}, settings),
        }
        own, labels = make_capture(spec, hosted, sources.describe(spec))
        self.observer: Any = own["capture"]
        self.queue: ObserverQueue[Any] = ObserverQueue("capture", self.observer, make_event)
        hosts = Hosts("test", hosted, observers=Observers([self.queue]), labels=labels)
        self.plane = DataPlane(hosts, keys, log_share=0.0)
        self.store = CaptureStore(str(folder))

    def ask(self, *requests: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.plane)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return [await client.post(path, **options) for path, options in requests]

        return asyncio.run(send())

    def stop(self) -> "Captured":
        self.queue.close()
        return self


def body(value: float, rows: int = 1, **fields: Any) -> dict[str, Any]:
    x = {"name": "x", "shape": [rows, 3], "datatype": "FP32", "data": [value] * 3 * rows}
    return {"inputs": [x], **fields}


def named(request_id: str, value: float = 1.0, **fields: Any) -> tuple[str, dict[str, Any]]:
    return URL, {"json": body(value, **fields), "headers": {"x-request-id": request_id}}


def test_answers_of_both_protocols_and_of_graphs_are_found_again(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    captured = Captured(model, tmp_path)
    steps = {"parameters": {"episode": 7, "step": "a"}}
    asked = (
        named("rest", 2.0, rows=2, **steps),
        (URL, {"json": body(4.0, id="own")}),
        ("/v2/models/twice/infer", {"json": body(5.0), "headers": {"x-request-id": "graph"}}),
        (
            "/invocations/doubler",
            {"json": {"inputs": {"x": [[6.0] * 3]}}, "headers": {"x-request-id": "mlflow"}},
        ),
        (URL, {"json": {}, "headers": {"x-request-id": "refused"}}),
    )
    assert [one.status_code for one in captured.ask(*asked)] == [200] * 4 + [400]
    message = doubler(3.0, id="grpc")
    message.parameters["episode"].CopyFrom(pb.InferParameter(int64_param=8))
    infer(captured.plane, message)
    settings = Settings.from_env()
    store = captured.stop().store

    def find(request_id: str) -> list[dict[str, Any]]:
        (found,) = reading.trace_request(store, request_id, settings)
        assert (found.model, found.version) in (("doubler", "3"), ("twice", found.version))
        assert str(model) in found.source
        return found.rows

    first, second = find("rest")
    assert (first["row"], second["row"]) == (0, 1)
    assert (first["inputs.x"], first["outputs.y"]) == ([2.0] * 3, [4.0] * 3)
    assert (first["parameters.episode"], first["parameters.step"]) == (7, "a")
    assert abs((first["time"] - datetime.datetime.now(datetime.UTC)).total_seconds()) < 60
    assert find("grpc")[0]["outputs.y"] == [6.0] * 3
    assert find("grpc")[0]["parameters.episode"] == 8
    assert find("own")[0]["log_id"]  # the id in the log is ours, and finds it, too
    assert find(find("own")[0]["log_id"])[0]["request_id"] == "own"
    assert find("graph")[0]["model"] == "twice"
    assert find("mlflow")[0]["inputs.x"] == [6.0] * 3
    with pytest.raises(NotFoundError, match=r"Request 'refused' was not captured.*not answered with 200"):
        reading.trace_request(store, "refused", settings)
    days = reading.list_captured(store)
    assert {(one.model, one.rows) for one in days} == {("doubler", 5), ("twice", 1)}
    assert reading.show_rows(store, "doubler", limit=2).num_rows == 2
    assert captured.queue.to_tree() | {"delivered": 0} == {
        "delivered": 0, "dropped": 0, "failed": 0, "captured": 5, "lost": 0,
    }  # fmt: skip


def test_replicas_agree_on_the_share_and_a_trace_says_who_is_not_in_it(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    names = [f"r{number}" for number in range(60)]
    for _ in range(2):
        replica = Captured(model, tmp_path, share=0.25)
        replica.ask(*map(named, names))
        replica.stop()
    rows = reading.show_rows(replica.store, "doubler", limit=1000)["request_id"].to_pylist()
    chosen = [name for name in names if is_in_share(name, 0.25)]
    assert 5 < len(chosen) < 30
    assert sorted(rows) == sorted(2 * chosen)
    left = next(name for name in names if name not in chosen)
    with pytest.raises(NotFoundError, match=r"the share is 0\.25, and this id is not in it"):
        reading.trace_request(replica.store, left, Settings.from_env())


def ask_as(captured: Captured, person: str, request_id: str) -> None:
    parameters = {"parameters": {"person": person, "note": "private", "step": 1}}
    assert captured.ask(named(request_id, **parameters))[0].status_code == 200


def test_a_person_is_hashed_and_deleted_with_its_labels(
    model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTURE_SECRET", "s3cret")
    monkeypatch.setenv("RAYMLOPS_USER", "ann")
    person = "parameters.person"
    options = {"hash": [person], "secret": "CAPTURE_SECRET", "person": person, "drop": ["parameters.note"]}
    captured = Captured(model, tmp_path, **options)
    for request_id, name in (("a", "bob"), ("b", "eve"), ("c", "bob")):
        ask_as(captured, name, request_id)
    store, settings = captured.stop().store, Settings.from_env()
    rows = reading.show_rows(store, "doubler").to_pylist()
    assert {row[person] for row in rows} == {hash_text("bob", b"s3cret"), hash_text("eve", b"s3cret")}
    assert "parameters.note" not in rows[0]
    assert b"bob" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*.parquet"))
    labels = pa.table({"id": ["a", "b"], "label": [1, 0]})
    columns = LabelColumns(id="id")
    assert labelling.store_table(store, "doubler", labels, columns).unknown == 0
    monkeypatch.setenv("CAPTURE_SECRET", "another")
    with pytest.raises(SpecError, match="hashed with another secret"):
        delete_person(store, "bob", "asked", settings)
    monkeypatch.setenv("CAPTURE_SECRET", "s3cret")
    (done,) = delete_person(store, "bob", "asked for it", settings)
    assert (done.rows, done.labels, done.files) == (2, 1, 2)
    assert [row["request_id"] for row in reading.show_rows(store, "doubler").to_pylist()] == ["b"]
    (record,) = store.read_deletions("doubler")
    assert (record["who"], record["why"], record["rows"]) == ("ann", "asked for it", 2)
    assert "bob" not in json.dumps(record)
    again = labelling.store_table(store, "doubler", labels, columns)
    assert not again.stored.is_new  # the deleted label does not come back with the same file
    assert delete_person(store, "bob", "again", settings)[0].rows == 0
    with pytest.raises(DataError, match=r"--column inputs\.NAME"):
        delete_person(store, "bob", "", settings, column="inputs.nobody")


def test_names_that_no_model_has_are_refused_when_it_starts(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(SpecError, match=r"capture.drop: .*'xx'.*'x'"):
        Captured(model, tmp_path, drop=["xx"])
    with pytest.raises(SpecError, match="hash needs secret"):
        Captured(model, tmp_path, hash=["x"])
    with pytest.raises(SpecError, match="set the environment variable NO_SUCH_SECRET"):
        Captured(model, tmp_path, hash=["x"], secret="NO_SUCH_SECRET")
    with pytest.raises(SpecError, match="'x' is dropped"):
        Captured(model, tmp_path, drop=["x"], person="x")
    only = Captured(model, tmp_path, columns=["outputs.y"])
    only.ask(named("a", parameters={"episode": 1}))
    (row,) = reading.show_rows(only.stop().store, "doubler").to_pylist()
    assert [name for name in row if "." in name] == ["outputs.y"]


def event(name: str, **fields: Any) -> Event:
    batch = {"x": np.ones((1, 2), np.float32), "s": np.array(["é"], dtype=object)}
    own = Event(
        "m",
        "1",
        name,
        batch,
        {"y": np.ones(1)},
        1,
        1,
        200,
        time.time(),
        "",
        "",
        "",
        1,
        1,
        "",
        False,
        "",
    )
    return own._replace(**fields)


def test_a_store_that_takes_nothing_costs_counted_answers_and_nothing_else(tmp_path: pathlib.Path) -> None:
    (tmp_path / "captures").write_text("a file where the folder should be")
    observer = CaptureObserver(Capture(path=str(tmp_path / "captures"), file_s=0.01), Selection(), {})
    observer.observe([event("a"), event("b")])
    observer._convert()
    time.sleep(0.02)
    observer.tick()
    assert observer.to_counts() == {"captured": 0, "lost": 0}  # it still has them, and tries again later
    (tmp_path / "captures").unlink()
    observer.close()
    assert observer.to_counts() == {"captured": 2, "lost": 0}
    assert not list(tmp_path.rglob("*.part"))
    (tmp_path / "full").write_text("")
    observer = CaptureObserver(Capture(path=str(tmp_path / "full")), Selection(), {})
    observer.observe([event("a")])
    observer.close()
    assert observer.to_counts() == {"captured": 0, "lost": 1}


def test_odd_requests_are_captured_beside_others(tmp_path: pathlib.Path) -> None:
    odd: Sequence[dict[str, Any]] = (
        {"model": "../up", "version": "a/b"},
        {"parameters": {"episode": 1}},
        {"parameters": {"episode": "one", "big": 2**80, "list": [1], "none": None}},
        {"parameters": {f"p{number}": number for number in range(1000)}},
        {"batch": {"x": np.float32(3), "s": np.array([b"\xff"], dtype=object)}},
        {"request_id": "\ud800"},
        {"rows": 0},
        {"status": 404},
    )
    observer = CaptureObserver(Capture(path=str(tmp_path / "c")), Selection(), {})
    observer.observe([event(f"r{place}", **fields) for place, fields in enumerate(odd)])
    observer.close()
    assert observer.to_counts() == {"captured": 6, "lost": 0}
    assert sorted(observer.store.list_models()) == ["../up", "m"]
    assert not list(tmp_path.glob("up*"))
    rows = reading.show_rows(observer.store, "m", limit=100)
    assert rows.num_rows == 5
    assert set(rows["parameters.episode"].to_pylist()) == {None, "1", "one"}
    assert sum(name.startswith("parameters.p") for name in rows.column_names) == 64
    assert [file.version for file in observer.store.list_files("../up")] == ["a/b"]


def test_files_of_old_days_are_deleted(tmp_path: pathlib.Path) -> None:
    observer = CaptureObserver(Capture(path=str(tmp_path), days=7), Selection(), {})
    now = time.time()
    observer.observe([event(f"d{days}", time=now - days * 86400) for days in (0, 6, 9, 40)])
    observer.close()
    old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    table = pa.table({"id": ["d40"], "label": [1]})
    store_labels(observer.store, "m", table, LabelColumns(id="id"), now=old)
    assert len(observer.store.list_labels("m")) == 1
    observer._expire()
    rows = reading.show_rows(observer.store, "m", limit=100)
    assert sorted(rows["request_id"].to_pylist()) == ["d0", "d6"]
    assert observer.store.list_labels("m") == []


def test_labels_over_http_each_get_their_sentence(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    secret, key = make_key("app", ["infer"])
    labeller, other = make_key("truth", ["label"])
    captured = Captured(model, tmp_path, KeyRing([key, other]), share=0.5)

    def post(content: Any, token: str = labeller) -> tuple[int, dict[str, Any]]:
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"authorization": f"Bearer {token}"}
        (answer,) = captured.ask((LABELS, {"content": sent, "headers": headers}))
        return answer.status_code, answer.json()

    names = [f"r{number}" for number in range(20)]
    outside = sum(not is_in_share(name, 0.5) for name in names)
    good = {"labels": [{"id": name, "label": 1.0} for name in names]}
    expected = {"model_name": "doubler", "labels": 20, "missing": 0, "outside_share": outside}
    assert post(good) == (200, expected | {"new": True})
    assert post(good) == (200, expected | {"new": False})
    assert post({"id": ["r1"], "label": [None]})[0] == 400
    assert post({"flight": ["UA1"], "label": [True], "time": ["2026-01-31"]})[1]["labels"] == 1
    assert post(good, secret)[0] == 403
    for content, status, told in (
        (b"", 400, '{"labels": '),
        (b"[1]", 400, "must be an object"),
        ({"labels": []}, 400, 'needs "label"'),
        ({"labels": [3]}, 400, "Label 0 is no object, but a number"),
        ({"labels": [{"label": 1}]}, 400, 'needs the "id"'),
        ({"labels": [{"id": "a"}]}, 400, 'needs "label"'),
        ({"labels": [{"id": "a", "label": [1]}]}, 400, "'label' of label 0 is a list"),
        (
            {"labels": [{"id": "a", "label": 1}, {"id": "b", "label": "x"}]},
            400,
            "label 1 is a text, and of label 0",
        ),
        ({"labels": [{"id": 1.5, "label": 1}]}, 400, "ids of requests are texts"),
        ({"labels": [{"id": "a", "label": 1, "row": -1}]}, 400, "whole numbers from 0"),
        ({"labels": [{"id": "a", "label": 1, "time": "soon"}]}, 400, "'soon' is no time"),
        ({"labels": [{"id": "a", "label": 1, "flight": "x"}]}, 400, "an id or a key"),
        ({"id": ["a", "b"], "label": [1]}, 400, "different lengths"),
        ({"id": ["a"] * 10**6, "label": [1] * 10**6}, 413, "over 1000000 elements"),
    ):
        given, answer = post(content)
        assert (given, told in answer["error"]) == (status, True), (
            content if len(content) < 9 else "",
            answer,
        )
    assert len(captured.store.list_labels("doubler")) == 2
    plain = DataPlane(Hosts("test", captured.plane.hosts.models))
    captured.plane = plain
    assert "captures no requests" in post(good)[1]["error"]


def test_the_last_label_counts_by_its_time_and_else_by_its_arrival(tmp_path: pathlib.Path) -> None:
    store = CaptureStore(str(tmp_path))
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    sent: list[dict[str, list[Any]]] = [
        {"id": ["a", "b", "c"], "label": [0, 0, 0], "time": ["2025-03-01", "2025-03-01", None]},
        {"id": ["a", "b", "c"], "label": [1, 1, 1], "time": ["2025-04-01", "2025-02-01", None]},
        {"id": ["a", "b", "c"], "label": [0, 0, 0], "time": ["2025-03-01", "2025-03-01", None]},
    ]
    states = []
    for hours, columns in enumerate(sent):
        table = pa.table(columns)
        chosen = choose_columns(table.column_names, LabelColumns())
        moment = start + datetime.timedelta(hours=hours)
        states.append(store_labels(store, "m", table, chosen, now=moment).is_new)
    assert states == [True, True, False]
    tables = []
    for file in store.list_labels("m"):
        with store.open(file.path) as opened:
            tables.append(opened.read())
    last = take_last(pa.concat_tables(tables), ("request_id", "row"))
    assert dict(zip(last["request_id"].to_pylist(), last[LABEL].to_pylist(), strict=True)) == {
        "a": 1,
        "b": 0,
        "c": 1,
    }
    with pytest.raises(DataError, match="say which it is with --label: 'one', 'two'"):
        choose_columns(["id", "one", "two"], LabelColumns())
    with pytest.raises(DataError, match=r"--id.*--key"):
        choose_columns(["flight", "label"], LabelColumns())


def test_the_commands_show_trace_label_and_delete(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captured = Captured(model, tmp_path, person="parameters.person")
    ask_as(captured, "bob", "first")
    store = ["--store", str(captured.stop().store.root)]

    def run(*arguments: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *store])
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    assert "doubler" in run("capture", "list")[1]
    assert '"inputs.x": [1.0, 1.0, 1.0]' in run("capture", "show", "doubler")[1]
    code, said = run("capture", "trace", "first")
    assert code == 0
    assert f"doubler version 3 answered at {datetime.datetime.now(datetime.UTC).year}" in said
    assert str(model) in said
    assert run("capture", "trace", "second")[0] == 2
    code, said = run("capture", "show", "doubler", "--since", "yesterday")
    assert (code, "'yesterday' is no day" in said) == (2, True)
    code, said = run("capture", "delete", "--person", "bob", "--why", "asked")
    assert (code, "deleted 1 rows and 0 labels by parameters.person" in said) == (0, True)
    assert run("capture", "show", "doubler")[0] == 2


def test_the_document_of_an_application_that_captures_has_the_route_of_labels(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    captured = Captured(model, tmp_path)

    async def get(plane: DataPlane) -> Any:
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/openapi.json")).json()["paths"]

    paths = asyncio.run(get(captured.plane))
    body = paths[LABELS]["post"]["requestBody"]["content"]["application/json"]
    assert captured.ask((LABELS, {"json": body["example"]}))[0].json()["labels"] == 1
    assert LABELS not in asyncio.run(get(DataPlane(Hosts("test", captured.plane.hosts.models))))
