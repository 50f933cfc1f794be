"""`POST /invocations` beside MLflow's own scoring server, which is run in this process: what it answers, we answer."""

import asyncio
import datetime
import json
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models import ModelSignature, infer_signature
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.utils.proto_json_utils import _CustomJsonEncoder

from raymlops.models.session import open_session
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.transport.asgi import DataPlane
from raymlops.specs.serving import HostedModel
from raymlops.tracking import signatures
from tests import toy_models
from tests.unit.serving.transport.test_asgi import Ask, make_ask, make_plane

Pair = tuple[Ask, Ask]
FLIGHTS = pd.DataFrame(
    {"distance": [1.5, 2.0], "carrier": ["AA", "UA"], "departure": [1372680000000, 1372680000001]}
)
FEATURES = pd.DataFrame([[1.0, 2.0, 3.0], [4.0, 5.5, 6.0]], columns=["a", "b", "c"])
PAIRS = pd.DataFrame({"INPUT0": [list(range(16)), [5] * 16], "INPUT1": [[1] * 16, [2] * 16]})
TABLES = {
    "flights": FLIGHTS,
    "doubler": FEATURES,
    "adder": PAIRS,
    "echo": pd.DataFrame({"text": ["é", ""]}),
    "widener": pd.DataFrame({"x": [1.0, 2.0]}),
}


def sign(name: str, kind: str) -> ModelSignature | None:
    """As raymlops registers models, by columns as `infer_signature` finds them, or not at all."""
    if kind == "tensors":
        return signatures.to_mlflow(open_session(getattr(toy_models, name)().SerializeToString()).signature)
    return infer_signature(TABLES[name]) if kind == "columns" else None


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(model, kind of signature) -> MLflow's server and ours for the same folder."""
    made: dict[tuple[str, str], Pair] = {}

    def get(name: str, kind: str) -> Pair:
        if (name, kind) not in made:
            folder = tmp_path_factory.mktemp("mlflow") / name
            mlflow.onnx.save_model(
                getattr(toy_models, name)(), str(folder), signature=sign(name, kind),
                onnx_execution_providers=["CPUExecutionProvider"], pip_requirements=["mlflow"],
            )  # fmt: skip
            theirs = make_ask(scoring_server.init(mlflow.pyfunc.load_model(str(folder))))
            hosted = {name: host_model(name, folder, HostedModel(source=str(folder)))}
            made[name, kind] = theirs, make_ask(DataPlane(Hosts("test", hosted)))
        return made[name, kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IS_IN_MLFLOW_SERVING_ENVIRONMENT", "true")  # which MLflow's server sets for good
        yield get


def list_requests(name: str) -> Iterator[dict[str, Any]]:
    """The same rows in every shape of the protocol."""
    table = TABLES[name]
    split = {key: value for key, value in table.to_dict("split").items() if key != "index"}
    named = name != "doubler"
    columns = {key: list(table[key]) for key in table} if named else {"x": table.to_numpy().tolist()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for document in (
        {"dataframe_split": split},
        {"dataframe_split": json.loads(table.to_json(orient="split"))},
        {"dataframe_records": table.to_dict("records")},
        {"dataframe_records": rows},
        {"instances": rows},
        {"inputs": columns},
        {"inputs": columns, "params": {"any": 1}},
        {"inputs": next(iter(columns.values()))},
        {"instances": next(iter(columns.values()))},
    ):
        yield {"content": json.dumps(document), "headers": {"Content-Type": "application/json"}}
    yield {"content": table.to_csv(index=False), "headers": {"Content-Type": "text/csv"}}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "tensors") for name in TABLES),
        # To other models, MLflow passes what ONNX Runtime does not take: lists in cells, and pandas' strings.
        *((name, kind) for kind in ("columns", "unsigned") for name in ("doubler", "flights")),
        ("widener", "unsigned"),
    ],
)
def test_what_mlflow_answers_is_answered_the_same(pairs: Any, name: str, kind: str) -> None:
    theirs, ask = pairs(name, kind)
    answered = 0
    for request in list_requests(name):
        wanted = theirs("POST", "/invocations", **request)
        if wanted.status_code == 200:
            got = ask("POST", "/invocations", **request)
            assert (got.status_code, got.json()) == (200, wanted.json()), request
            answered += 1
    assert answered > 0


@pytest.mark.parametrize(
    "document",
    [
        {}, {"instances": [], "inputs": []}, {"dataframe_split": {"data": [[1]], "rows": 1}}, {"predictions": 1},
        {"dataframe_records": {}}, {"dataframe_split": []}, {"instances": 1}, {"inputs": {"y": [1.0]}},
        {"dataframe_records": [{"z": 1.0}]}, [], "text", {"inputs": {"x": [[1.0], [2.0, 3.0]]}},
    ],
)  # fmt: skip
def test_what_mlflow_refuses_as_no_request_is_refused(pairs: Any, document: Any) -> None:
    theirs, ask = pairs("widener", "tensors")
    assert theirs("POST", "/invocations", json=document).status_code == 400
    assert ask("POST", "/invocations", json=document).status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/vnd.apache.avro"])
def test_a_content_type_of_neither_is_415_for_both(pairs: Any, kind: str) -> None:
    theirs, ask = pairs("widener", "tensors")
    for send in (theirs, ask):
        assert send("POST", "/invocations", content=b"x", headers={"Content-Type": kind}).status_code == 415


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    return make_ask(make_plane(tmp_path_factory.mktemp("models"), {"flights": toy_models.flights()}))


ROW = {"distance": 1.0, "carrier": "AA", "departure": "2013-07-01T12:00:00Z"}


@pytest.mark.parametrize("form", ["dataframe_records", "instances", "dataframe_split", "v1"])
@pytest.mark.parametrize("column", list(ROW))
@pytest.mark.parametrize("wrong", ["{}s", "{} ", "{upper}", "x_{}", "other"])
def test_a_misspelt_column_is_refused_with_the_right_name_though_it_may_be_missing(
    ask: Ask, form: str, column: str, wrong: str
) -> None:
    name = wrong.format(column, upper=column.upper())
    rows = [{name if key == column else key: value for key, value in ROW.items()}, ROW]
    for sent in (rows[:1], rows, rows[::-1]):
        if form == "dataframe_split":
            if len(sent) > 1:
                continue
            body: dict[str, Any] = {form: {"columns": list(sent[0]), "data": [list(sent[0].values())]}}
        else:
            body = {"instances" if form == "v1" else form: sent}
        path = "/v1/models/flights:predict" if form == "v1" else "/invocations"
        response = ask("POST", path, json=body)
        assert response.status_code == 400, response.text
        assert name.strip() in response.json()["error"]
        assert column in response.json()["error"]
    if wrong == "{}s":
        assert f"did you mean '{column}'" in response.json()["error"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("1,AA,1372680000000.0", 200), ("1,AA,1372680000000", 200), ("NA,NA,NaT", 200), ("1,AA,20130701", 200),
        ("1,AA", 200), ("1,AA,1372680000000.5", 400), ("1,AA,2013-07-01,7", 400), ("one,AA,2013-07-01", 400),
    ],
)  # fmt: skip
def test_a_row_of_csv_is_read_as_pandas_writes_one(ask: Ask, text: str, status: int) -> None:
    content = f"distance,carrier,departure\n{text}\n"
    response = ask("POST", "/invocations", content=content, headers={"Content-Type": "text/csv"})
    assert response.status_code == status, response.text


def test_columns_beside_those_of_the_model_are_left_out_as_mlflow_does(ask: Ask) -> None:
    body = {"dataframe_records": [ROW | {"id": 7, "label": "late"}]}
    assert ask("POST", "/invocations", json=body).status_code == 200


def read_times(ask: Ask, **request: Any) -> list[bool]:
    """Whether each time of the request was understood as one: without one, a flight is late."""
    response = ask("POST", "/invocations", **request)
    assert response.status_code == 200, response.text
    return [probability < 0.5 for probability in response.json()["predictions"]["probability"]]


ZONES = [None, "UTC", "America/New_York", "Asia/Kolkata"]


@pytest.mark.filterwarnings("ignore:'epoch' date format")
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ZONES)
def test_every_shape_in_which_pandas_and_mlflow_send_a_time_is_taken(
    ask: Ask, unit: Any, zone: str | None
) -> None:
    times = pd.Series(
        pd.to_datetime(["2013-07-01T12:00:00.125", None, "1969-12-31T00:00:00.000"])
    ).dt.as_unit(unit)
    table = pd.DataFrame(
        {"distance": [1.0] * 3, "carrier": ["AA"] * 3, "departure": times.dt.tz_localize(zone)}
    )
    split = {key: value for key, value in table.to_dict("split").items() if key != "index"}
    texts = [
        json.dumps({"dataframe_split": split}, cls=_CustomJsonEncoder),
        *(f'{{"dataframe_{orient}": {table.to_json(orient=orient, date_format=form, date_unit="ms")}}}'
          for orient in ("split", "records") for form in ("iso", "epoch")),
    ]  # fmt: skip
    known = [True, False, False]  # before 1970 is before any flight of this model
    for text in texts:
        content = text.encode()
        assert read_times(ask, content=content, headers={"Content-Type": "application/json"}) == known, text
    for text in (table.to_csv(index=False), table.to_csv(index=False, na_rep="NaT")):
        assert read_times(ask, content=text, headers={"Content-Type": "text/csv"}) == known, text


@pytest.mark.parametrize(
    ("time", "milliseconds"),
    [
        (1372680000125, 1372680000125), (1372680000125.0, 1372680000125), (None, None), ("", None), ("NaT", None),
        ("2013-07-01T12:00:00.125Z", 1372680000125), ("2013-07-01 12:00:00.125000000", 1372680000125),
        ("2013-07-01T14:00:00.125+02:00", 1372680000125), ("2013-07-01", 1372636800000), ("20130701", 1372636800000),
        (-1, -1), (0, 0), ("1985-04-12t23:20:50.52z", 482196050520), ("2016-12-31T23:59:60Z", 1483228800000),
        ("2016-12-31T23:59:60.5+00:00", 1483228800500), ("20130701T120000-0600", 1372701600000),
        ("20130701T120000+0600", 1372658400000), ("20130701T120000.160Z", 1372680000160),
        ("20130701T120000,460", 1372680000460), ("2013-07-01T12:00:00.601Z", 1372680000601),
    ],
)  # fmt: skip
def test_a_time_is_the_milliseconds_that_it_says(time: Any, milliseconds: int | None) -> None:
    from raymlops.features import MISSING_INSTANT
    from raymlops.serving.protocol.columns import Column, to_array
    from raymlops.tensors import TensorSpec

    column = Column(TensorSpec("t", "INT64", (-1,)), "timestamp")
    wanted = MISSING_INSTANT if milliseconds is None else milliseconds
    np.testing.assert_array_equal(to_array([time], column), [wanted])


@given(
    st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)),
    st.one_of(st.none(), st.integers(-14 * 60, 14 * 60)),
    st.sampled_from(
        ["%Y-%m-%dT%H:%M:%S", "%Y%m%dT%H%M%S", "%Y-%m-%d %H:%M:%S", "%GW%V%uT%H%M%S", "%G-W%V-%u %H:%M:%S"]
    ),
    st.sampled_from(["", ".%f", ",%f"]),
    st.sampled_from(["", ":"]),
)
def test_the_forms_of_iso_8601_are_read_as_python_reads_them(
    moment: datetime.datetime, offset: int | None, form: str, fraction: str, colon: str
) -> None:
    from raymlops.serving.protocol.columns import Column, to_array
    from raymlops.tensors import TensorSpec

    text = moment.strftime(form) + moment.strftime(fraction)
    if offset is not None:
        text += f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{colon}{abs(offset) % 60:02d}"
    wanted = datetime.datetime.fromisoformat(text)
    since = wanted.replace(tzinfo=wanted.tzinfo or datetime.UTC) - datetime.datetime(
        1970, 1, 1, tzinfo=datetime.UTC
    )
    column = Column(TensorSpec("t", "INT64", (-1,)), "timestamp")
    assert to_array([text], column).tolist() == [since // datetime.timedelta(milliseconds=1)]


@pytest.mark.parametrize("time", [1.5, "yesterday", True, [1, [2]], 1e300, 2**63, "12:00", "2013-13-01"])
def test_what_is_no_time_is_refused(ask: Ask, time: Any) -> None:
    body = {"dataframe_records": [ROW | {"departure": time}]}
    assert ask("POST", "/invocations", json=body).status_code == 400


def test_mlflows_own_client_reads_the_answers(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path, {"flights": toy_models.flights()})
    times = pd.to_datetime(["2013-07-01T12:00", None])
    table = pd.DataFrame({"distance": [1.0, np.nan], "carrier": ["AA", "AA"], "departure": times})

    def call(port: int) -> Any:
        client = ScoringServerClient("127.0.0.1", port)
        client.wait_server_ready(timeout=20)
        return client.invoke(table).get_predictions()

    async def run() -> Any:
        server = uvicorn.Server(uvicorn.Config(plane, log_level="critical", access_log=False, lifespan="off"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.ensure_future(server.serve([listener]))
            try:
                return await asyncio.to_thread(call, listener.getsockname()[1])
            finally:
                server.should_exit = True
                await serving

    predictions = asyncio.run(run())
    assert predictions["label"].tolist() == ["on_time", "late"]
    np.testing.assert_allclose(predictions["probability"], [0.25, 1.4], rtol=1e-6)
