"""What a user gets for bad input: exit code 2, one sentence with the remedy, and nothing left behind half done."""

import gc
import pathlib
import re
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray

from raymlops.cli import main
from raymlops.settings import Settings
from raymlops.tracking import store
from raymlops.tracking.run_reader import Client
from tests import bad_inputs, experiments, toy_models
from tests.bad_inputs import CASES, Files

pytestmark = pytest.mark.usefixtures("ray_cluster")


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


@pytest.fixture(scope="module")
def tracking(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Of a store that has version 1 of the model `by-hand`."""
    from raymlops.lifecycle.govern.register import register_file

    file = toy_models.save(bad_inputs.flights_model(), tmp_path_factory.mktemp("model") / "flights.onnx")
    register_file(pathlib.Path(file), "by-hand", "for bad inputs", settings)
    return store.connect(settings)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


def assert_one_sentence(code: int, err: str, *parts: str) -> None:
    lines = [line for line in err.strip().splitlines() if line and not line.startswith("Reading ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in err
    for part in parts:
        assert re.search(part, err), (part, err)


def list_files(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes()


def list_recorded(client: Client, settings: Settings) -> set[str]:
    """Experiments, versions, and searches that could be resumed."""
    versions = {f"{found.name}/{found.version}" for found in client.search_model_versions()}
    begun = {str(path) for path in pathlib.Path(settings.storage_path).glob("bad*")}
    return begun | versions | {found.name for found in client.search_experiments()}


def assert_nothing_runs(cores: int, before: set[int]) -> None:
    """No task or actor of the cluster, and no other process of this one."""
    gc.collect()  # what failed is held by its traceback
    end = time.monotonic() + 60
    while ray.available_resources().get("CPU") != cores and time.monotonic() < end:
        time.sleep(0.05)
    assert ray.available_resources().get("CPU") == cores
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("_as_user")
def test_bad_input_is_one_sentence_and_leaves_all_as_it_was(
    case: str,
    tmp_path: pathlib.Path,
    settings: Settings,
    tracking: Client,
    ray_cluster: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files, wanted = Files(tmp_path), CASES[case]
    command = wanted.command(files)
    for name, value in wanted.environment(files).items():
        monkeypatch.setenv(name, value)
    held, recorded = dict(list_files(tmp_path)), list_recorded(tracking, settings)
    processes = {child.pid for child in psutil.Process().children()}
    assert_one_sentence(*run(capsys, *command), *wanted.parts)
    left = dict(list_files(tmp_path))
    kept_aside = {name for name in left if name.startswith("scores/_left_out/") or name.endswith(".lock")}
    assert {name: content for name, content in left.items() if name not in kept_aside} == held
    assert list_recorded(tracking, settings) == recorded
    assert_nothing_runs(ray_cluster, processes)


@pytest.mark.usefixtures("_as_user")
def test_storage_that_cannot_be_written_is_told_and_no_run_stays_open(
    tmp_path: pathlib.Path,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = Files(tmp_path)
    spec = files.spec(files.parquet("rows.parquet", bad_inputs.SIGNAL), name="no-storage")
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
def test_predictions_stand_beside_a_column_of_their_name_and_replace_no_file(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path)
    model, rows = files.model(), files.put("rows.csv", bad_inputs.FLIGHTS_TEXT)
    first = ("predict", model, rows, "--output", files.path("first"), "--quiet")
    assert run(capsys, *first)[0] == 0
    held = dict(list_files(tmp_path))
    assert_one_sentence(*run(capsys, *first), "already holds Parquet files; give another folder")
    assert dict(list_files(tmp_path)) == held
    assert (
        run(capsys, "predict", model, files.path("first"), "--output", files.path("again"), "--quiet")[0] == 0
    )
    names = pyarrow.parquet.read_table(files.path("again")).column_names
    assert {"label", "predicted_label"} <= set(names)


def test_infinities_in_training_are_missing_values(tmp_path: pathlib.Path) -> None:
    from raymlops.lifecycle.train.prepare import prepare

    values = bad_inputs.SIGNAL["z"].to_numpy().copy()
    values[::10] = np.inf
    table = bad_inputs.SIGNAL.set_column(2, "z", pa.array(values))
    path = Files(tmp_path).parquet("rows.parquet", table)
    prepared = prepare(experiments.spec_of("infinite", {"path": path}))
    columns = {column.name: column for column in prepared.features.columns}
    assert columns["z"].indicator
    assert np.isfinite(columns["z"].mean)
    assert prepared.profile["z"]["missing"] > 0


@pytest.mark.usefixtures("_as_user", "tracking")
def test_evaluate_tells_rows_that_it_leaves_out_and_categories_that_the_model_does_not_know(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path)
    command = bad_inputs.evaluate_command(files, files.parquet("rows.parquet", bad_inputs.FLIGHTS_BEYOND))
    code, err = run(capsys, *command)
    assert code == 0, err
    assert (
        "Left out: distance: 1 rows break 'numbers of FP32, up to 3.4e+38' (such as 1e+300; the first is row 8"
        in err
    )
    assert "carrier: 19 of 40 rows have a category that the model does not know, such as 'AA'" in err
