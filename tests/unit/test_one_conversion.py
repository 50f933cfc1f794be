"""A value as it stands in a table becomes the same input of a model in training, evaluation and batch prediction, and
in every request of an endpoint; what one refuses, all refuse."""

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raymlops.conversions.conversion import Conversion
from raymlops.data import contract as contracts
from raymlops.errors import DataError, InputError
from raymlops.features import FittedColumn, FittedFeatures, FittedTarget, column_to_tensor, convert_columns
from raymlops.lifecycle.batch import predict
from raymlops.lifecycle.govern import scoring
from raymlops.models.export import contract_of
from raymlops.serving.protocol import json_numbers, kserve_v1, mlflow_codec
from raymlops.serving.protocol.columns import read_columns
from raymlops.serving.protocol.infer_decoder import InferDecoder
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.specs.dataset import ColumnRule, ContractSpec
from raymlops.tensors import Signature, TensorSpec

TARGET = FittedTarget("y", "binary", "integer", (0, 1))
RULES = {
    "yes or no": ColumnRule(type="boolean"),
    "yes or no, never missing": ColumnRule(type="boolean", nulls=False),
    "own words": ColumnRule(words={"ja": True, "nein": False}),
    "decimal comma": ColumnRule(decimal=",", thousands="."),
    "number": ColumnRule(type="number"),
    "integer": ColumnRule(type="integer"),
    "integer, never missing": ColumnRule(type="integer", nulls=False),
    "text": ColumnRule(type="string"),
    "text in any case": ColumnRule(ignore_case=True, ignore_blanks=True),
    "day first": ColumnRule(format="%d/%m/%Y"),
    "digits": ColumnRule(format="%Y%m%d"),
    "seconds": ColumnRule(format="epoch_s"),
    "nanoseconds": ColumnRule(format="epoch_ns"),
    "ISO 8601": ColumnRule(type="timestamp"),
}
TEXTS = st.one_of(
    st.sampled_from(["Yes", "no", " T ", "JA", "nein", "", "NA", "n/a", " ", "1", "0", "1.0", "2.5", "1.234,5", "12,34",
                     "1.234", "9007199254740993", "1e3", "inf", "01/02/2020", "31/12/1969", "2020-02-01", "20200201",
                     "1577836800", "2020-02-01T03:04:05Z", "2020-02-01T03:04:05+02:00", " Red  Car ", "red car"]),
    st.text("aYN01.,/- é", max_size=6),
)  # fmt: skip
COLUMNS = st.one_of(
    st.lists(st.none() | TEXTS, min_size=1, max_size=8),
    st.lists(st.none() | st.booleans(), min_size=1, max_size=8),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 20200201, 1577836800, 2**53 + 1]),
             min_size=1, max_size=8),
    st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False)
             | st.sampled_from([0.0, 1.0, 1577836800.5, 20200201.0]),
             min_size=1, max_size=8),
)  # fmt: skip
LIMITS = RequestLimits()


def fitted_of(rule: ColumnRule) -> FittedFeatures:
    assert rule.conversion is not None
    kind: Any = "category" if rule.type == "string" else "timestamp" if rule.type == "timestamp" else "number"
    column = FittedColumn("a", kind, rule.type, nullable=rule.nulls, conversion=rule.conversion)  # type: ignore[arg-type]
    return FittedFeatures((column,), TARGET)


def in_training(table: pa.Table, rule: ColumnRule, fitted: FittedFeatures) -> list[Any]:
    checked, broken = contracts.check_columns(table, ContractSpec(columns={"a": rule}))
    numbers = ("a",) if rule.type == "number" else ()
    broken += contracts.check_range(checked, numbers, np.ones(table.num_rows, dtype=bool))
    holds = contracts.find_valid(table, broken)
    tensor = iter(column_to_tensor(checked.filter(pa.array(holds)), fitted.columns[0]).tolist())
    return [next(tensor) if kept else "refused" for kept in holds]


def in_batch(table: pa.Table, contract: dict[str, Any], spec: TensorSpec) -> list[Any]:
    (entry,) = contract["columns"]
    column = predict._column_of(spec, entry)
    converted, failed = convert_columns(table, [column])
    holds = contracts.find_valid(table, [contracts.Broken(one.column, one.rule, one.rows) for one in failed])
    tensor = iter(column_to_tensor(converted.filter(pa.array(holds)), column).tolist())
    return [next(tensor) if kept else "refused" for kept in holds]


def in_evaluation(value: pa.Table, contract: dict[str, Any]) -> Any:
    try:
        return column_to_tensor(value, scoring.features_of(contract).columns[0])[0]
    except DataError:
        return "refused"


def in_requests(value: Any, contract: dict[str, Any], spec: TensorSpec) -> dict[str, Any]:
    """By protocol: what a request with one row becomes."""
    signature = Signature((spec,), (TensorSpec("probability", "FP32", (-1,)),))
    known = read_columns(signature, contract)
    datatype = "BYTES" if isinstance(value, str) else spec.datatype
    infer = {"inputs": [{"name": "a", "datatype": datatype, "shape": [1], "data": [value]}]}
    loose = {
        "inputs": [{"name": "a", "datatype": spec.datatype, "shape": [1, 1][:1], "data": [value]}],
        "id": "x",
    }
    decode: dict[str, Any] = {
        "infer": lambda: (
            InferDecoder(known).decode(json.dumps(infer).encode(), None, signature, LIMITS).batch
        ),
        "infer, other datatype": lambda: (
            InferDecoder(known).decode(json.dumps(loose).encode(), None, signature, LIMITS).batch
        ),
        "infer, by the parser for many numbers": lambda: decode_many(infer, known, signature),
        "records": lambda: (
            mlflow_codec.decode(
                json.dumps({"dataframe_records": [{"a": value}]}).encode(), "application/json", known, LIMITS
            ).batch
        ),
        "columns": lambda: (
            mlflow_codec.decode(
                json.dumps({"inputs": {"a": [value]}}).encode(), "application/json", known, LIMITS
            ).batch
        ),
        "instances": lambda: (
            kserve_v1.decode(json.dumps({"instances": [{"a": value}]}).encode(), "", known, LIMITS).batch
        ),
    }
    if type(value) in (int, float) and spec.dtype.kind in "if":
        with np.errstate(over="ignore", invalid="ignore"):
            tensor = np.array([value]).astype(spec.dtype)
            is_exact = float(tensor[0]) == value
        if is_exact and (tensor.dtype.kind == "f") == (type(value) is float):
            decode["binary"] = lambda: decode_binary(tensor, known, signature)
    if isinstance(value, str) and value.strip():
        quoted = '"' + value.replace('"', '""') + '"'
        decode["CSV"] = lambda: (
            mlflow_codec.decode(f"a\n{quoted}\n".encode(), "text/csv", known, LIMITS).batch
        )
    found = {}
    for name, read in decode.items():
        try:
            (found[name],) = read()["a"].tolist()
        except InputError:
            found[name] = "refused"
    return found


def decode_many(document: dict[str, Any], known: Any, signature: Signature) -> Any:
    before, json_numbers.LARGE = json_numbers.LARGE, 1
    try:
        return InferDecoder(known).decode(json.dumps(document).encode(), None, signature, LIMITS).batch
    finally:
        json_numbers.LARGE = before


def decode_binary(tensor: Any, known: Any, signature: Signature) -> Any:
    datatype = known["a"].spec.datatype
    parameters = {"binary_data_size": tensor.nbytes}
    header = json.dumps(
        {"inputs": [{"name": "a", "datatype": datatype, "shape": [1], "parameters": parameters}]}
    ).encode()
    return InferDecoder(known).decode(header + tensor.tobytes(), len(header), signature, LIMITS).batch


def same(one: Any, other: Any) -> bool:
    return one == other or (
        isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    )


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, deadline=None)
@example(values=[-1, 2, 2**53 + 2, -62135596800001])
@example(values=[-1.0, 0.5, 1.0, 9007199254740994.0])
@example(values=[1e300, -3.5e38, 3.4028235e38])
@example(values=["1e300", "1,5"])
@given(values=COLUMNS)
def test_a_value_is_the_same_input_everywhere(name: str, values: list[Any]) -> None:
    rule = RULES[name]
    fitted = fitted_of(rule)
    contract = json.loads(json.dumps(contract_of(fitted)))
    spec = fitted.columns[0].spec
    table = pa.table({"a": pa.array(values)})
    trained = in_training(table, rule, fitted)
    batch = in_batch(table, contract, spec)
    for place, (value, expected) in enumerate(zip(values, trained, strict=True)):
        assert same(batch[place], expected), ("batch", value)
        evaluated = in_evaluation(table.slice(place, 1), contract)
        assert same(evaluated if isinstance(evaluated, str) else np.asarray(evaluated).item(), expected), (
            value
        )
        for protocol, got in in_requests(value, contract, spec).items():
            assert same(got, expected), (protocol, value)


def test_models_without_conversions_take_what_they_took() -> None:
    spec = TensorSpec("a", "FP32", (-1,))
    known = read_columns(Signature((spec,), (spec,)), {"columns": [{"name": "a", "kind": "number"}]})
    assert known["a"].conversion is None
    with pytest.raises(InputError, match="must be numbers"):
        mlflow_codec.decode(b'{"inputs": {"a": ["1.5"]}}', "application/json", known, LIMITS)


def test_a_conversion_of_a_later_version_is_named() -> None:
    with pytest.raises(Exception, match="install the version that made the model"):
        scoring.features_of({
            "columns": [{"name": "a", "kind": "number", "conversion": {"type": "number", "base": 16}}],
            "target": {"name": "y", "task": "binary", "classes": [0, 1]},
        })  # fmt: skip
    assert Conversion.from_json({"type": "number"}) == Conversion("number")


def test_a_champion_that_read_a_column_as_texts_still_does_beside_one_that_converts_it() -> None:
    """Rows for measuring are as they were read: each model converts them; one without rules takes those of the spec."""
    rows = pa.table({"a": ["Yes", "No"], "y": [1, 0]})
    of_spec = {"a": Conversion("boolean")}
    texts = FittedFeatures((FittedColumn("a", "category", "string", values=("No", "Yes")),), TARGET)
    older = FittedFeatures((FittedColumn("a", "number", "boolean", nullable=False),), TARGET)
    newer = fitted_of(RULES["own words"])
    read = [
        scoring.with_conversions(scoring.features_of(contract_of(one)), of_spec).columns[0]
        for one in (texts, older, newer)
    ]
    assert [column.conversion and column.conversion.words for column in read] == [
        None,
        (),
        (("ja", True), ("nein", False)),
    ]
    assert column_to_tensor(rows, read[0]).tolist() == ["Yes", "No"]
    assert column_to_tensor(rows, read[1]).tolist() == [True, False]
    with pytest.raises(DataError, match="do not convert by 'type boolean, words ja, nein', such as Yes, No"):
        column_to_tensor(rows, read[2])
