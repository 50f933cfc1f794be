"""What a user gets for bad input: exit code 2, one sentence, and nothing left behind half done."""

import os
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from raymlops.cli import main
from raymlops.settings import Settings
from raymlops.tracking import store
from tests import experiments, toy_models

pytestmark = pytest.mark.usefixtures("ray_cluster")

TABLE = experiments.signal_table(300)


@pytest.fixture
def _as_user(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reads the environment; it meets the cluster of these tests, which is already joined."""
    monkeypatch.setenv("RAYMLOPS_HOME", str(settings.home))
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_REGISTRY_URI",
        "RAYMLOPS_STORAGE",
        "RAYMLOPS_ARTIFACTS",
        "RAY_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


def write_spec(folder: pathlib.Path, name: str, path: pathlib.Path, **parts: Any) -> str:
    reader = path.suffix.removeprefix(".")
    spec = experiments.spec_of(name, {"path": str(path), "reader": reader}, **parts)
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    return str(file)


def assert_one_sentence(code: int, err: str, *parts: str) -> None:
    lines = [line for line in err.strip().splitlines() if line]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in err
    for part in parts:
        assert re.search(part, err), (part, err)


def replaced(column: str, values: Any) -> pa.Table:
    return TABLE.set_column(TABLE.column_names.index(column), column, values)


def missing(folder: pathlib.Path) -> pathlib.Path:
    return folder / "rows.parquet"


def empty(folder: pathlib.Path) -> pathlib.Path:
    (folder / "rows.csv").touch()
    return folder / "rows.csv"


def truncated(folder: pathlib.Path) -> pathlib.Path:
    path = experiments.write_table(TABLE, folder / "rows.parquet")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def uneven(folder: pathlib.Path) -> pathlib.Path:
    path = experiments.write_table(TABLE, folder / "rows.csv")
    path.write_text(path.read_text() + "1,2,3\n")
    return path


def without_label(folder: pathlib.Path) -> pathlib.Path:
    return experiments.write_table(TABLE.drop_columns(["late"]), folder / "rows.parquet")


def one_class(folder: pathlib.Path) -> pathlib.Path:
    return experiments.write_table(replaced("late", pa.array([1] * TABLE.num_rows)), folder / "rows.parquet")


def null_column(folder: pathlib.Path) -> pathlib.Path:
    return experiments.write_table(
        replaced("x", pa.nulls(TABLE.num_rows, pa.float64())), folder / "rows.parquet"
    )


def doubled_header(folder: pathlib.Path) -> pathlib.Path:
    path = experiments.write_table(TABLE, folder / "rows.csv")
    path.write_text(path.read_text().replace('"z"', '"x"', 1))
    return path


def two_types(folder: pathlib.Path) -> pathlib.Path:
    """Files that hold a column in different types, none of which is a number."""
    files = folder / "rows.parquet"
    files.mkdir()
    experiments.write_table(TABLE, files / "a.parquet")
    experiments.write_table(replaced("word", pa.array([True] * TABLE.num_rows)), files / "b.parquet")
    return files


def no_records(folder: pathlib.Path) -> pathlib.Path:
    (folder / "rows.json").write_text("3\n")
    return folder / "rows.json"


def beyond_float(folder: pathlib.Path) -> pathlib.Path:
    return experiments.write_table(
        replaced("late", pa.array([1e300, *range(TABLE.num_rows - 1)])), folder / "rows.parquet"
    )


BAD_TABLES = {
    "doubled header": (doubled_header, ["Column 'x' occurs twice", "name of its own"]),
    "no records": (no_records, ["Cannot read .*rows.json' as json"]),
    "missing file": (missing, ["No file or folder .*rows.parquet", "check dataset.path"]),
    "empty file": (empty, ["rows.csv' is empty"]),
    "truncated Parquet": (truncated, ["Cannot read .*rows.parquet"]),
    "uneven CSV": (uneven, ["rows.csv", "Expected 11 columns, got 3"]),
    "label absent": (without_label, [r"features\.target\.column: Unknown column 'late'"]),
    "one class": (one_class, [r"Target 'late' has one class only \(\[1\]\)"]),
    "null column": (null_column, ["Column 'x' is null in all"]),
    "two types": (two_types, ["word"]),
    "target beyond float32": (
        beyond_float,
        [r"Column 'late' has 1e\+300 in row 1", "contract.columns.late.max"],
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
@pytest.mark.usefixtures("_as_user")
def test_a_bad_table_is_one_sentence_and_leaves_no_run(
    case: str, tmp_path: pathlib.Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    make, parts = BAD_TABLES[case]
    name = "bad-" + case.replace(" ", "-")
    spec = write_spec(tmp_path, name, make(tmp_path))
    assert_one_sentence(*run(capsys, "search", spec, "--quiet"), *parts)
    client = store.connect(settings)
    assert client.get_experiment_by_name(name) is None
    assert not client.search_registered_models(f"name='{name}'")


@pytest.mark.usefixtures("_as_user")
def test_a_typo_in_a_spec_names_file_line_and_the_nearest_key(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path, "typo", tmp_path / "rows.parquet")
    pathlib.Path(spec).write_text(pathlib.Path(spec).read_text() + "trianing: {lr: 1}\n")
    last = len(pathlib.Path(spec).read_text().splitlines())
    for verb in ("check", "search"):
        code, err = run(capsys, verb, spec)
        assert_one_sentence(code, err, rf"spec\.yaml:{last}: Unknown key 'trianing'; did you mean 'training'")


@pytest.mark.usefixtures("_as_user")
def test_a_store_that_cannot_be_written_stops_it_before_anything_starts(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(tmp_path, "unwritable", experiments.write_table(TABLE, tmp_path / "rows.parquet"))
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("RAYMLOPS_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("RAYMLOPS_HOME", str(blocked))
    assert_one_sentence(
        *run(capsys, "search", spec), "Cannot use the tracking store", "set MLFLOW_TRACKING_URI"
    )
    monkeypatch.setenv("RAYMLOPS_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").write_text("this is no database, and long enough to tell" * 20)
    assert_one_sentence(*run(capsys, "search", spec), "Cannot use the tracking store")


@pytest.mark.usefixtures("_as_user")
def test_storage_that_cannot_be_written_is_told_and_no_run_stays_open(
    tmp_path: pathlib.Path,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = write_spec(tmp_path, "no-storage", experiments.write_table(TABLE, tmp_path / "rows.parquet"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYMLOPS_STORAGE", str(tmp_path / "file"))
    assert_one_sentence(
        *run(capsys, "search", spec, "--quiet"), "Cannot write to the storage path", "RAYMLOPS_STORAGE"
    )
    client = store.connect(settings)
    experiment = client.get_experiment_by_name("no-storage")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    assert {found.info.status for found in runs} <= {"FAILED"}
    assert not client.search_registered_models("name='no-storage'")


@pytest.mark.usefixtures("_as_user")
def test_a_demand_over_the_cluster_fails_at_once(
    tmp_path: pathlib.Path, settings: Settings, capsys: pytest.CaptureFixture[str], ray_cluster: int
) -> None:
    (tmp_path / "not-even-read.parquet").write_text("no table")
    spec = write_spec(tmp_path, "too-much", tmp_path / "not-even-read.parquet")
    for change, part in (
        (f"training.workers={ray_cluster + 1}", f"asks for {ray_cluster + 1} CPUs .*{ray_cluster} CPUs"),
        ("training.use_gpu=true", "1 GPUs .* and 0 GPUs"),
    ):
        assert_one_sentence(*run(capsys, "search", spec, "--set", change), "One trial asks for", part)
    assert store.connect(settings).get_experiment_by_name("too-much") is None


@pytest.mark.usefixtures("_as_user")
def test_predict_names_what_it_cannot_use(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(experiments.write_table(TABLE, tmp_path / "rows.parquet"))
    output = str(tmp_path / "scores")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    for model, part in (
        ("models:/nosuch@champion", "Unknown model 'nosuch'"),
        ("models:/nosuch", "names no model version"),
        (str(tmp_path / "none.onnx"), "No model"),
        (str(tmp_path / "broken.onnx"), "cannot load"),
    ):
        assert_one_sentence(*run(capsys, "predict", model, path, "--output", output, "--quiet"), part)
    model = str(toy_models.save(toy_models.flights(), tmp_path / "flights.onnx"))
    flights = pa.table({"distance": [100.0, 200.0], "carrier": ["UA", "AA"], "departure": [1, 2]})
    rows = experiments.write_table(flights, tmp_path / "flights.csv")
    arguments = ("predict", model, str(rows), "--output", output, "--quiet")
    assert_one_sentence(
        *run(capsys, *arguments, "--reader", "cvs"), "Unknown reader 'cvs'; did you mean 'csv'"
    )
    nowhere = ("predict", model, str(rows), "--output", "/proc/scores/of-nobody", "--quiet")
    assert_one_sentence(*run(capsys, *nowhere), "Cannot write into '/proc/scores/of-nobody'")
    assert_one_sentence(
        *run(capsys, *arguments, "--keep", "nope"), "--keep: Unknown column 'nope'", "carrier"
    )
    assert not os.path.exists(output) or not os.listdir(output)
    assert run(capsys, *arguments)[0] == 0
    assert_one_sentence(*run(capsys, *arguments), "already holds Parquet files; give another folder")
    again = ("predict", model, output, "--output", f"{output}-again", "--quiet")
    assert run(capsys, *again)[0] == 0
    assert {"label", "predicted_label"} <= set(pyarrow.parquet.read_table(f"{output}-again").column_names)


@pytest.mark.usefixtures("_as_user")
def test_what_is_wrong_with_a_search_is_told_before_a_cluster_is_joined(
    tmp_path: pathlib.Path,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # nobody answers there
    spec = write_spec(tmp_path, "unfounded", tmp_path / "rows.parquet")
    assert_one_sentence(*run(capsys, "search", spec), "No file or folder .*rows.parquet")
    experiments.write_table(TABLE, tmp_path / "rows.parquet")
    without = write_spec(tmp_path, "unfounded", tmp_path / "rows.parquet", search={"trials": 2})
    assert_one_sentence(
        *run(capsys, "search", without), "needs search.space; give one, or run `raymlops train`"
    )
    assert not list(pathlib.Path(settings.storage_path).glob("unfounded*"))  # nothing to resume


@pytest.mark.usefixtures("_as_user")
def test_a_name_that_no_uri_can_hold_registers_nothing(
    tmp_path: pathlib.Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(toy_models.save(toy_models.flights(), tmp_path / "flights.onnx"))
    held = store.connect(settings).search_experiments()
    for name in ("a b/c", "a:1", "a@champion", "", " a", "../a", "a" * 300, "a\nb"):
        assert_one_sentence(*run(capsys, "register", model, "--name", name, "--why", "w"), "cannot be named")
    assert len(store.connect(settings).search_experiments()) == len(held)


def test_infinities_in_training_are_missing_values(tmp_path: pathlib.Path) -> None:
    from raymlops.lifecycle.train.prepare import prepare

    values = TABLE["z"].to_numpy().copy()
    values[::10] = np.inf
    path = experiments.write_table(replaced("z", pa.array(values)), tmp_path / "rows.parquet")
    prepared = prepare(experiments.spec_of("infinite", {"path": str(path)}))
    columns = {column.name: column for column in prepared.features.columns}
    assert columns["z"].indicator
    assert np.isfinite(columns["z"].mean)
    assert prepared.profile["z"]["missing"] > 0
