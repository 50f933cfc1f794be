"""Inputs that a command must refuse in one sentence: files, command, and what the sentence says. One table, by id."""

import bz2
import dataclasses
import gzip
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml
from onnx import helper

from raymlops.artifact import CONTRACT_KEY
from tests import experiments, toy_models

ROWS = 300
SIGNAL = experiments.signal_table(ROWS)
FLIGHTS = pa.table(
    {
        "distance": np.arange(40) * 10.0,
        "carrier": ["UA", "AA"] * 20,
        "departure": 1_577_836_800_000 + np.arange(40) * 86_400_000,
        "status": ["on_time", "late"] * 20,
    }
)
VERSION = "models:/by-hand/1"


def to_csv(table: pa.Table) -> str:
    written = io.BytesIO()
    pyarrow.csv.write_csv(table, written)
    return written.getvalue().decode()


TEXT, FLIGHTS_TEXT = to_csv(SIGNAL), to_csv(FLIGHTS)


def flights_model() -> onnx.ModelProto:
    """The model of `toy_models.flights` with a target of its own, so that it can be evaluated."""
    model = toy_models.flights()
    contract: dict[str, Any] = {
        "columns": [
            {"name": "distance", "kind": "number"},
            {"name": "carrier", "kind": "string", "feature": "category"},
            {"name": "departure", "kind": "timestamp", "feature": "timestamp"},
        ],
        "target": {"name": "status", "task": "binary", "type": "string", "classes": ["on_time", "late"]},
    }
    helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
    return model


@dataclasses.dataclass(frozen=True)
class Files:
    """The folder of one case, and what cases write into it."""

    folder: pathlib.Path

    def put(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def parquet(self, name: str, table: pa.Table) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, path)
        return str(path)

    def zip(self, name: str, **inner: bytes) -> str:
        with zipfile.ZipFile(self.folder / name, "w") as archive:
            for file, content in inner.items():
                archive.writestr(file.replace("__", "."), content)
        return str(self.folder / name)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def spec(self, dataset: str | dict[str, Any], **parts: Any) -> str:
        given = {"path": dataset} if isinstance(dataset, str) else dataset
        ending = pathlib.Path(str(given.get("path"))).suffix.removeprefix(".")
        reader = ending if ending in ("parquet", "json") else "csv"
        value = {**_SPEC, "dataset": {"reader": reader, **given}, **parts}
        return self.put("spec.yaml", yaml.safe_dump(value, allow_unicode=True))

    def model(self) -> str:
        return str(toy_models.save(flights_model(), self.folder / "flights.onnx"))


_SPEC: dict[str, Any] = experiments.spec_of("bad", {"reader": "csv", "path": "x"}).model_dump(
    mode="json", exclude_unset=True
)
Make = Callable[[Files], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A command that ends with exit code 2 and a sentence in which all `parts` occur, as regular expressions."""

    command: Callable[[Files], list[str]]
    parts: tuple[str, ...]
    environment: Callable[[Files], Mapping[str, str]] = lambda files: {}


def init(make: Make, *parts: str, target: str = "late", options: tuple[str, ...] = ()) -> Case:
    return Case(
        lambda files: [
            "init", make(files), "--target", target, "--output", files.path("made.yaml"), *options,
        ],
        parts,
    )  # fmt: skip


def search(make: Make, *parts: str, options: tuple[str, ...] = (), **spec: Any) -> Case:
    return Case(lambda files: ["search", files.spec(make(files), **spec), "--quiet", *options], parts)


def check(*parts: str, options: tuple[str, ...] = (), **spec: Any) -> Case:
    return Case(lambda files: ["check", files.spec("rows.csv", **spec), *options], parts)


def evaluate_command(files: Files, data: str, verb: str = "evaluate") -> list[str]:
    spec = files.spec(files.put("flights.csv", FLIGHTS_TEXT), **_FLIGHTS_SPEC)
    return [verb, VERSION, "--spec", spec, "--data", data]


def _measure(verb: str, make: Make, parts: tuple[str, ...]) -> Case:
    return Case(lambda files: [*evaluate_command(files, make(files), verb), "--json"], parts)


def evaluate(make: Make, *parts: str) -> Case:
    return _measure("evaluate", make, parts)


def gate(make: Make, *parts: str) -> Case:
    return _measure("gate", make, parts)


def predict(make: Make, *parts: str, options: tuple[str, ...] = ()) -> Case:
    return Case(
        lambda files: [
            "predict", files.model(), make(files), "--output", files.path("scores"), "--quiet", *options,
        ],
        parts,
    )  # fmt: skip


def plain(*parts: str, command: Callable[[Files], list[str]], **environment: Any) -> Case:
    return Case(command, parts, **environment)


_FLIGHTS_SPEC: dict[str, Any] = {
    "features": {
        "target": {"column": "status"},
        "numbers": ["distance"],
        "categories": ["carrier"],
        "timestamps": ["departure"],
    }
}


def _replaced(column: str, values: Any, table: pa.Table = SIGNAL) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def _csv(table: pa.Table) -> Make:
    return lambda files: files.put("rows.csv", to_csv(table))


def _text(content: str | bytes, name: str = "rows.csv") -> Make:
    return lambda files: files.put(name, content)


def _parquet(table: pa.Table) -> Make:
    return lambda files: files.parquet("rows.parquet", table)


def _first(column: str, value: Any, table: pa.Table = SIGNAL) -> pa.Table:
    """The table with another value in row 8."""
    values: list[Any] = table[column].to_pylist()
    values[7] = value
    return _replaced(column, pa.array(values), table)


def _as_text(column: str, value: str, row: int, table: pa.Table = SIGNAL) -> str:
    values = [str(held) for held in table[column].to_pylist()]
    values[row - 1] = value
    return to_csv(_replaced(column, pa.array(values), table))


def _header(new: str) -> str:
    return TEXT.replace('"z"', new, 1)


def _folder(**files_of: str | bytes) -> Make:
    def make(files: Files) -> str:
        for name, content in files_of.items():
            files.put(f"rows/{name.replace('__', '.')}", content)
        return files.path("rows")

    return make


def _link_to_itself(files: Files) -> str:
    files.put("rows/a.csv", TEXT)
    (files.folder / "rows/again").symlink_to(files.folder / "rows")
    return files.path("rows")


def _broken_link(files: Files) -> str:
    (files.folder / "rows.csv").symlink_to("/nowhere/rows.csv")
    return files.path("rows.csv")


def _pipe(files: Files) -> str:
    os.mkfifo(files.folder / "rows.csv")
    return files.path("rows.csv")


def _two_types(files: Files) -> str:
    """Files that hold a column in different types, none of which is a number."""
    files.parquet("rows.parquet/a.parquet", SIGNAL)
    files.parquet("rows.parquet/b.parquet", _replaced("word", pa.array([True] * ROWS)))
    return files.path("rows.parquet")


def _blocked(files: Files) -> dict[str, str]:
    files.put("file", "")
    return {"RAYMLOPS_HOME": files.path("file"), "RAYMLOPS_STORAGE": files.path("storage")}


def _no_database(files: Files) -> dict[str, str]:
    files.put("home/mlflow.db", "this is no database, and long enough to tell" * 20)
    return {"RAYMLOPS_HOME": files.path("home"), "RAYMLOPS_STORAGE": files.path("storage")}


def _features(**parts: Any) -> dict[str, Any]:
    return {"features": {"target": {"column": "late"}, **parts}}


def _renamed(old: str, new: str, table: pa.Table = SIGNAL) -> pa.Table:
    return table.rename_columns([new if name == old else name for name in table.column_names])


FLIGHTS_BEYOND = _first("distance", 1e300, FLIGHTS)
_LINES = SIGNAL.select(["id", "x", "word", "late"]).to_pandas().to_json(orient="records", lines=True)
_ARRAYS = SIGNAL.select(["id", "x", "word", "late"]).to_pandas()
_NAMES = ("a b/c", "a:1", "a@champion", "", " a", "../a", "a" * 300, "a\nb")
_PACKED = gzip.compress(TEXT.encode())
_WIDE = _replaced("x", pa.array([[1.0, 2.0]] * ROWS))
_BYTES = pa.array([b"\xff\xfe"] * ROWS)


CASES: dict[str, Case] = {
    # Files that are not there, or no files.
    "missing file": search(
        lambda files: files.path("rows.csv"), "No file or folder .*rows.csv", "check dataset.path"
    ),
    "missing file, init": init(lambda files: files.path("rows.csv"), "No file or folder .*rows.csv"),
    "missing file, evaluate": evaluate(lambda files: files.path("other.csv"), "No file or folder .*other.csv"),
    "missing file, gate": gate(lambda files: files.path("other.csv"), "No file or folder .*other.csv"),
    "missing file, predict": predict(lambda files: files.path("rows.csv"), "No file or folder .*rows.csv"),
    "missing spec": plain("No file '.*none.yaml'", command=lambda files: ["search", files.path("none.yaml")]),
    "name of no length": init(lambda files: "", "No file or folder ''"),
    "name too long": init(lambda files: files.path("x" * 300 + ".csv"), "No file or folder"),
    "pattern of no file": search(lambda files: files.path("none*.csv"), r"No file or folder .*none\*.csv"),
    "link to nothing": search(_broken_link, "No file or folder .*rows.csv"),
    "link to its own folder": init(_link_to_itself, "count twice", "remove the link"),
    "pipe": search(_pipe, "neither a file nor a folder", "write its rows to a file first"),
    "device": init(lambda files: "/dev/null", "neither a file nor a folder"),
    "unknown scheme": init(lambda files: "foo://a/b.csv", "foo"),
    "folder of no files": init(_folder(_SUCCESS=""), "has no files of a table"),
    "folder of two formats": init(
        _folder(a__csv=TEXT, b__parquet=b"PAR1"), "files of several formats", r"give one kind of them: .*\*\.csv"
    ),
    "folder with an empty file": init(_folder(a__csv=TEXT, b__csv=""), "b.csv' is empty; remove it"),
    "folder with an empty file, search": search(_folder(a__csv=TEXT, b__csv=""), "Empty CSV file; remove the empty"),
    "folder with other columns": init(
        _folder(a__csv=TEXT, b__csv=_header('"zz"')), "different columns: 'z' is missing", "add the column"
    ),
    "folder with two types": search(_two_types, "word", "incompatible types", "write the files anew with one type"),
    "folder with numbers and words": search(
        _folder(a__csv=TEXT, b__csv=to_csv(_replaced("word", SIGNAL["id"]))),
        "Column 'word' is string in some files .* int64 in others", "contract.columns.word.type: string",
    ),
    # Files that are broken, packed, or of another format.
    "empty file": search(_text(""), "rows.csv' is empty"),
    "empty file, evaluate": evaluate(_text(""), "rows.csv' is empty"),
    "empty file, predict": predict(_text(""), "rows.csv' is empty"),
    "header alone": search(_text("x,y\n"), "no rows|has no"),
    "header alone, init": init(_text("x,late\n"), "has no rows; expected some below the header"),
    "header alone, evaluate": evaluate(_text(FLIGHTS_TEXT.split("\n")[0] + "\n"), "no rows"),
    "blank lines": init(_text("\n \n\n"), "is empty; expected a header and rows"),
    "gzip that is cut": init(_text(_PACKED[:2000], "rows.csv.gz"), "Cannot unpack", "copy it again"),
    "gzip that is cut, search": search(
        _text(_PACKED[:2000], "rows.csv.gz"), "Cannot read .*rows.csv.gz' as csv", ";"
    ),
    "gzip that is none": init(_text(TEXT, "rows.csv.gz"), "Cannot unpack", "the ending of its compression"),
    "gzip with a wrong sum": init(_text(_PACKED[:-8] + bytes(8), "rows.csv.gz"), "Cannot unpack", "copy it again"),
    "gzip in gzip": init(_text(gzip.compress(_PACKED), "rows.csv.gz"), "compressed twice; unpack it once"),
    "bzip2 that is cut": init(_text(bz2.compress(TEXT.encode())[:900], "rows.csv.bz2"), "Cannot unpack"),
    "zip that is cut": init(_text(b"PK\x03\x04" + bytes(99), "rows.zip"), "Cannot read .*copy it again"),
    "zip of two tables": init(
        lambda files: files.zip("rows.zip", a__csv=b"x", b__csv=b"y"), "holds a.csv, b.csv", "zip://a.csv::"
    ),
    "zip of nothing": init(lambda files: files.zip("rows.zip"), "holds no files"),
    "tar": init(_text(_PACKED, "rows.tar.gz"), "a file of kind tar; unpack"),
    "workbook": init(_text(b"PK\x03\x04" + bytes(99), "rows.xlsx"), "kind excel; save the sheet as CSV"),
    "pickle": init(_text(b"\x80\x04", "rows.pkl"), "kind pickle; write it as Parquet"),
    "page of HTML": init(_text("<!DOCTYPE html>\n<html><body>404</body></html>\n"), "in HTML or XML, no table"),
    "cut Parquet": search(
        lambda files: files.put("rows.parquet", pathlib.Path(files.parquet("a.parquet", SIGNAL)).read_bytes()[:-50]),
        "Cannot read .*rows.parquet' as parquet", "write or copy the file again",
    ),
    "cut Parquet, evaluate": evaluate(
        _text(b"PAR1PAR1", "rows.parquet"), "Cannot read .*rows.parquet' as parquet", ";"
    ),
    "Parquet as CSV": search(
        lambda files: {"path": files.parquet("rows.parquet", SIGNAL), "reader": "csv"}, "as csv", ";"
    ),
    "CSV as Parquet": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "reader": "parquet"}, "as parquet", "dataset.reader"
    ),
    "bytes of zero": init(_text(bytes(3000)), "bytes of zero, so that it is no text"),
    "a text as JSON": search(_text("3\n", "rows.json"), "rows.json", "one object a row"),
    "JSON by columns": init(
        lambda files: files.put("rows.json", _ARRAYS.to_json(orient="columns")), "one object a row",
        "orient='records'"
    ),
    "JSON of lists": init(
        lambda files: files.put("rows.json", _ARRAYS.to_json(orient="values")), "row 1 is a list; expected one object"
    ),
    "JSON with a broken line": search(
        _text(_LINES + '{"id":\n', "rows.json"), r"row 301 is no JSON", "mend or remove"
    ),
    "JSON with a later type": init(
        _text(_LINES + '{"id": "u"}\n', "rows.jsonl"), "column 'id' changed from number to string in row 301",
        "one type"
    ),
    # Rows and columns.
    "uneven rows": search(_text(TEXT + "1,2,3\n"), "Expected 11 columns, got 3", "mend that row"),
    "uneven rows, init": init(_text(TEXT + "1,2,3\n"), "Expected 11 columns, got 3", "--option"),
    "uneven rows, predict": predict(_text(FLIGHTS_TEXT + "1\n"), "Expected 4 columns, got 1", "mend that row"),
    "quote that stays open": init(_text(TEXT + '1,"2,3\n'), "Expected 11 columns", "quote_char"),
    "row longer than a block": init(
        _text(TEXT + f"0,0,0,0,{'z' * 2**21},true,2020-01-01,0,true,a,1\n"), "longer than a block", "block_size"
    ),
    "one column": init(_text("late\n" + "1\n0\n" * 40), "one column only, 'late'", "delimiter: SIGN"),
    "columns of a fixed width": init(_text("x   y\n" + "1   0\n2    1\n" * 30), "columns of a fixed width", "tr -s"),
    "header twice": search(_text(_header('"x"')), "Column 'x' occurs twice", "a name of its own"),
    "header twice, evaluate": evaluate(
        _text(FLIGHTS_TEXT.replace('"carrier"', '"distance"', 1)), "Column 'distance' occurs twice"
    ),
    "header again": init(_text(TEXT[: TEXT.index("\n99,") + 1] * 2), "its header .* again", "awk"),
    "header that looks like data": init(
        _text(TEXT.split("\n", 1)[1]), "Unknown column 'late'", "columns are numbered"
    ),
    "name that is taken": init(_csv(_renamed("z", "__row_key__")), "raymlops needs for itself; rename it"),
    "name that is taken, search": search(_csv(_renamed("z", "__row_key__")), "raymlops needs for itself; rename it",
        **_features(numbers=["x"])),
    "text deep in numbers": search(
        _text(_as_text("x", "unknown", ROWS - 1)),
        "Column 'x' is to be type number, and 1 of its values are not, such as 'unknown' .*row 299", "columns.x.type",
    ),
    "number beyond FP32": search(
        _parquet(_first("z", 1e300)), r"Column 'z' has 1e\+300 in row 8", "contract.columns.z.max"
    ),
    "target beyond FP32": search(
        _parquet(_first("late", 1e300)), r"Column 'late' has 1e\+300 in row 8", "contract.columns.late.max"
    ),
    "numbers beyond FP32, predict": predict(
        _parquet(_replaced("distance", pa.array([1e300] * 40), FLIGHTS)), "40 of 40 rows", "numbers of FP32",
        "_left_out"
    ),
    "numbers beyond FP32, evaluate": evaluate(
        _parquet(_replaced("distance", pa.array([1e300] * 40), FLIGHTS)), "40 of 40 rows", "numbers of FP32"
    ),
    "column of nulls": search(_parquet(_replaced("x", pa.nulls(ROWS, pa.float64()))), "Column 'x' is null in all"),
    "column of lists": search(_parquet(_WIDE), "Column 'x'", "number"),
    "column of structs": search(
        _parquet(_replaced("x", pa.array([{"a": 1}] * ROWS))), "Column 'x'", "number"
    ),
    "column of bytes": search(_parquet(_replaced("x", _BYTES)), "Column 'x'", "number"),
    "column of durations": search(_parquet(_replaced("x", pa.array(range(ROWS), pa.duration("s")))), "Column 'x'"),
    "texts as numbers": search(
        _csv(_replaced("x", SIGNAL["kind"])), "'x' is to be type number", "contract.columns.x"
    ),
    "dates that are ambiguous": search(
        _csv(_replaced("when", pa.array([f"0{1 + n % 9}/0{1 + n % 9}/2020" for n in range(ROWS)]))),
        "contract.columns.when", "format",
    ),
    "nothing to learn from": init(
        _csv(pa.table({"id": range(60), "k": ["a"] * 60, "late": [0, 1] * 30})), "no column to predict 'late' from",
        "id is left out as id", "give a table with others",
    ),
    "no feature that is named": search(_csv(SIGNAL.drop_columns(["x"])), "Unknown column 'x'"),
    "no feature that is named, evaluate": evaluate(
        _csv(FLIGHTS.drop_columns(["distance"])), "Unknown column 'distance'"
    ),
    "no feature that is named, predict": predict(
        _csv(FLIGHTS.drop_columns(["distance"])), "Unknown column 'distance'"
    ),
    # The target.
    "target absent": search(_csv(SIGNAL.drop_columns(["late"])), "features.target.column: Unknown column 'late'"),
    "target absent, init": init(_csv(SIGNAL), "--target: Unknown column 'lat'; did you mean 'late'", target="lat"),
    "target absent, evaluate": evaluate(_csv(FLIGHTS.drop_columns(["status"])), "target: Unknown column 'status'"),
    "target absent, gate": gate(_csv(FLIGHTS.drop_columns(["status"])), "target: Unknown column 'status'"),
    "target of nulls": init(
        _parquet(_replaced("late", pa.nulls(ROWS, pa.int64()))), "'late' is null in all", "another"
    ),
    "target of one value": init(_csv(_replaced("late", pa.array([1] * ROWS))), "'late' has one value only"),
    "one class": search(_csv(_replaced("late", pa.array([1] * ROWS))), r"'late' has one class only \(\[1\]\)"),
    "one row": init(_csv(SIGNAL.slice(0, 1)), "one value only"),
    "three rows": search(_csv(SIGNAL.slice(0, 3)), "'late' has one class only", "give rows of another class"),
    "three rows of a class": search(
        _csv(_replaced("late", pa.array([1] * 2 + [0] * (ROWS - 2)))),
        "'late' has classes that are too rare", "1 has 2 training", "give more rows",
    ),
    "target of names": init(_csv(_replaced("late", pa.array([f"k{n}" for n in range(ROWS)]))), "different texts"),
    "target of times": init(_parquet(_replaced("late", SIGNAL["when"])), "'late' is timestamp", "choose another"),
    "target of lists": init(_parquet(_replaced("late", pa.array([[1]] * ROWS))), "'late' is list", "choose another"),
    "target of texts, regression": search(
        _csv(_replaced("late", SIGNAL["kind"])), "Target 'late' is string; regression needs numbers",
        "contract.columns",
        **_features(numbers=["x"], target={"column": "late", "task": "regression"}),
    ),
    "infinite target": search(
        _parquet(_first("price", float("inf"))), "'price' is null or infinite in 1 ", r"abs\(price\) < 1e38",
        features={"target": {"column": "price"}, "numbers": ["x"]},
    ),
    "unseen class": evaluate(_csv(_first("status", "lost", FLIGHTS)), "classes .*lost.* that no training row has"),
    "target without a value": evaluate(_csv(_first("status", None, FLIGHTS)), "status"),
    "three classes as two": init(
        _csv(_replaced("late", SIGNAL["kind"])), "'late' has 3 values; a binary task takes two", "--task multiclass",
        options=("--task", "binary"),
    ),
    "texts as a regression": init(
        _csv(_replaced("late", SIGNAL["kind"])), "a regression predicts numbers", "leave --task out",
        options=("--task", "regression"),
    ),
    # The spec.
    "key that is misspelt": check(
        r"spec\.yaml:\d+: Unknown key 'trianing'; did you mean 'training'", trianing={"lr": 1}
    ),
    "key that is misspelt, search": search(_text(TEXT), "did you mean 'training'", trianing={"lr": 1}),
    "spec that is no YAML": plain(
        "not valid YAML", command=lambda files: ["check", files.put("spec.yaml", "name: [")]
    ),
    "spec that is a list": plain(
        "expected a mapping", command=lambda files: ["check", files.put("spec.yaml", "[1]")]
    ),
    "spec that is a folder": plain("Cannot read", command=lambda files: ["check", str(files.folder)]),
    "feature called label": check("'label' has the name of an output", "label_in", **_features(numbers=["label"])),
    "feature called probability": check(
        "'probability' has the name of an output", **_features(numbers=["probability"])
    ),
    "feature called prediction": check(
        "'prediction' has the name of an output", **_features(numbers=["prediction"])
    ),
    "feature without a name": check("a column without a name", **_features(numbers=["", "x"])),
    "feature twice": check("x", "twice|two", **_features(numbers=["x"], categories=["x"])),
    "target among the features": check("late", **_features(numbers=["x", "late"])),
    "no features": check("features", "list some", features={"target": {"column": "late"}}),
    "no space to search": search(
        _text(TEXT), "needs search.space; give one, or run `raymlops train`", search={"trials": 2}
    ),
    "override that is no override": check("not of the form key.path=value", options=("--set", "epochs")),
    "unknown reader": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "reader": "cvs"}, "did you mean 'csv'"
    ),
    "unknown option of a reader": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "options": {"delimiter": ";"}}, "delimiter",
        "dataset.options"
    ),
    "unknown option in an option": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "options": {"parse_options": {"delimitr": ";"}}},
        "dataset.options.parse_options", "delimitr",
    ),
    "filter of an unknown column": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "where": "zz > 1"}, "dataset.where: Unknown column 'zz'"
    ),
    "filter that leaves nothing": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "where": "z > 100"}, "has no rows; expected some after"
    ),
    "expression of other types": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "derive": {"q": "z / word"}}, "derive.q"
    ),
    "split by no column": search(_text(TEXT), "Unknown column 'nope'", split={"by": "group", "column": "nope"}),
    "split by one group": search(
        _csv(_replaced("id", pa.array([1] * ROWS))), "split has no rows", "split.fractions",
        split={"by": "group", "column": "id"},
    ),
    "contract of no column": search(
        _text(TEXT), "contract.columns: Unknown column 'nope'", contract={"columns": {"nope": {"type": "number"}}}
    ),
    "contract that rows break": search(
        _text(TEXT), "break the contract, and contract.max_failed", contract={"columns": {"z": {"max": -1.0}}}
    ),
    "more than the cluster has": search(
        _text(TEXT), "One trial asks for", "CPUs", options=("--set", "training.workers=64")
    ),
    "a GPU that is not there": search(
        _text(TEXT), "1 GPUs .* and 0 GPUs", options=("--set", "training.use_gpu=true")
    ),
    "name of a model, search": search(_text(TEXT), "name", name="a b/c"),
    # Models, versions and outputs.
    **{
        f"name {name[:12]!r}": plain(
            "cannot be named",
            command=lambda files, name=name: ["register", files.model(), "--name", name, "--why",
        "w"],  # type: ignore[misc]
        )
        for name in _NAMES
    },
    "register nothing": plain(
        "No ONNX file", command=lambda files: ["register", files.path("m.onnx"), "--name", "m", "--why", "w"]
    ),
    "register a text": plain(
        "not an ONNX file", command=lambda files: ["register", files.put("m", "x" * 99), "--name", "m", "--why", "w"]
    ),
    "alias that is no alias": plain(
        "alias", command=lambda files: ["promote", "by-hand", "1", "--alias", "a b/c", "--why", "w", "--force"]
    ),
    "promote an unknown version": plain(
        "has no version 9", command=lambda files: ["promote", "by-hand", "9", "--why", "w", "--force"]
    ),
    "unknown model, evaluate": plain(
        "Unknown model 'nosuch'", command=lambda files: ["evaluate", "models:/nosuch@champion"]
    ),
    "unknown alias, gate": plain("Unknown alias 'nosuch'", command=lambda files: ["gate", "models:/by-hand@nosuch"]),
    "unknown version, diff": plain("has no version 9", command=lambda files: ["diff", VERSION, "models:/by-hand/9"]),
    "no version, diff": plain("names no model version", command=lambda files: ["diff", "by-hand", VERSION]),
    "version without a spec": plain("spec", command=lambda files: ["evaluate", VERSION]),
    "unknown model, predict": plain(
        "Unknown model 'nosuch'",
        command=lambda files: ["predict", "models:/nosuch@champion", files.put("a.csv", "x\n1\n"), "--output", "o"],
    ),
    "model that is none, predict": plain(
        "cannot load",
        command=lambda files: [
            "predict", files.put("m.onnx", "no model"), files.put("a.csv", "x\n1\n"), "--output", files.path("o"),
        ],
    ),
    "values that do not convert, predict": predict(
        _csv(_replaced("distance", pa.array(["far"] * 40), FLIGHTS)), "40 of 40 rows .*do not convert", "_left_out"
    ),
    "column to keep, predict": predict(
        _text(FLIGHTS_TEXT), "--keep: Unknown column 'nope'", "carrier", options=("--keep", "nope")
    ),
    "unknown reader, predict": predict(
        _text(FLIGHTS_TEXT), "Unknown reader 'cvs'; did you mean 'csv'", options=("--reader", "cvs")
    ),
    "output that is not empty": predict(
        lambda files: (files.put("scores/a.parquet", b"PAR1"), files.put("rows.csv", FLIGHTS_TEXT))[1],
        "already holds Parquet files; give another folder",
    ),
    "output that is a file": predict(
        lambda files: (files.put("scores", "x"), files.put("rows.csv", FLIGHTS_TEXT))[1],
        "it is a file; give a folder"
    ),
    "output that cannot be written": plain(
        "Cannot write into '/proc/scores'", "another folder",
        command=lambda files: [
            "predict", files.model(), files.put("rows.csv", FLIGHTS_TEXT), "--output", "/proc/scores",
        ],
    ),
    "output of init onto its data": plain(
        "is DATA itself", "another --output",
        command=lambda files: [
            "init", files.put("rows.csv", TEXT), "--target", "late", "--output", files.path("rows.csv"), "--overwrite",
        ],
    ),
    "option of init that is none": init(_text(TEXT), "'x' is not of the form KEY=VALUE", options=("--option", "x")),
    "unknown encoding": init(
        _text(TEXT), "Unknown encoding 'klingon'; such as", options=("--option", "read_options={encoding: klingon}")
    ),
    "unknown encoding, search": search(
        lambda files: {"path": files.put("rows.csv", TEXT), "options": {"read_options": {"encoding": "klingon"}}},
        "klingon",
    ),
    "name of a spec": init(_text(TEXT), "'a b/c' cannot name an experiment", options=("--name", "a b/c")),
    "names with line breaks": evaluate(
        _csv(_renamed("distance", "dis\ntance", FLIGHTS)), "Unknown column 'distance'.*Known: .*dis tance"
    ),
    "output of init that exists": init(
        lambda files: (files.put("made.yaml", "mine: 1\n"), files.put("rows.csv", TEXT))[1], "exists", "--overwrite"
    ),
    "home that is a file": Case(
        lambda files: ["search", files.spec(files.put("rows.csv", TEXT))],
        ("Cannot use the tracking store", "set MLFLOW_TRACKING_URI"), _blocked,
    ),
    "home with a broken database": Case(
        lambda files: ["search", files.spec(files.put("rows.csv", TEXT))],
        ("Cannot use the tracking store",), _no_database,
    ),
    "missing file, without a cluster": Case(
        lambda files: ["search", files.spec(files.path("rows.csv"))], ("No file or folder",),
        lambda files: {"RAY_ADDRESS": "192.0.2.1:6379"},  # nobody answers there
    ),
}  # fmt: skip
