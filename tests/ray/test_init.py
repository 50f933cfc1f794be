"""`raymlops init` on files as people have them: the spec that it writes is valid, and reads every row of today."""

import gzip
import pathlib
import zipfile

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import raymlops as raymlops_api
from raymlops.api import read_spec
from raymlops.cli import raymlops
from raymlops.data.split_rows import scan_rows
from raymlops.errors import DataError, SpecError
from raymlops.lifecycle.init import proposal
from raymlops.settings import Settings

pytestmark = pytest.mark.usefixtures("ray_cluster")
ROWS = 400


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    return pd.DataFrame(
        {
            "x": x.round(3),
            "n": rng.integers(1000, 9999, ROWS),
            "c": rng.choice(["é", "b", "c"], ROWS),
            "y": np.where(x + rng.normal(size=ROWS) > 0, "yes", "no"),
        }
    )


def propose(data: pathlib.Path | str, target: str = "y", **options: object) -> proposal.Proposal:
    return proposal.propose(str(data), target, Settings.from_env(), **options)  # type: ignore[arg-type]


def read(found: proposal.Proposal) -> pd.DataFrame:
    """All rows, as a search reads them; none may break the contract."""
    spec = found.spec
    rows = scan_rows(spec.dataset, spec.contract, spec.split, spec.features)
    assert rows.scan.failed == 0, rows.scan.findings
    return pd.concat([rows.of(part).to_pandas() for part in ("train", "validation", "test")])


def _write_text(path: pathlib.Path, frame: pd.DataFrame, **options: object) -> pathlib.Path:
    frame.to_csv(path, index=False, **options)  # type: ignore[call-overload]
    return path


WRITERS = {
    "plain.csv": lambda path, frame: _write_text(path, frame),
    "semicolons.csv": lambda path, frame: _write_text(path, frame, sep=";", decimal=","),
    "tabs.tsv": lambda path, frame: _write_text(path, frame, sep="\t"),
    "bars.txt": lambda path, frame: _write_text(path, frame, sep="|"),
    "mark.csv": lambda path, frame: _write_text(path, frame, encoding="utf-8-sig"),
    "latin.csv": lambda path, frame: _write_text(path, frame, encoding="latin-1"),
    "wide.csv": lambda path, frame: _write_text(path, frame, encoding="utf-16"),
    "zipped.csv.gz": lambda path, frame: _write_text(path, frame),
    "burrows.csv.bz2": lambda path, frame: _write_text(path, frame),
    "no_ending": lambda path, frame: path.write_bytes(gzip.compress(frame.to_csv(index=False).encode())),
    "table.parquet": lambda path, frame: frame.to_parquet(path),
    "lines.jsonl": lambda path, frame: frame.to_json(path, orient="records", lines=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_is_read_alike_however_it_is_written(
    name: str, frame: pd.DataFrame, tmp_path: pathlib.Path
) -> None:
    WRITERS[name](tmp_path / name, frame)
    found = propose(tmp_path / name)
    assert found.spec.features.numbers == ("x", "n")
    assert found.spec.features.categories == ("c",)
    assert found.target.positive == "yes"
    rows = read(found)
    assert sorted(rows.x) == sorted(frame.x)
    assert set(rows.c) == {"é", "b", "c"}
    assert len(rows) == ROWS


def test_files_of_a_folder_a_pattern_and_an_archive_are_one_table(
    frame: pd.DataFrame, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "parts").mkdir()
    frame.head(100).to_csv(tmp_path / "parts/a.csv", index=False)
    frame.tail(300).to_csv(tmp_path / "parts/b.csv", index=False)
    (tmp_path / "parts/README.md").write_text("# about\n")
    (tmp_path / "parts/_SUCCESS").touch()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("inner/all.csv", frame.to_csv(index=False))
    for data in ("parts", "parts/*.csv", "all.zip"):
        found = propose(tmp_path / data)
        assert (found.profile.rows, len(read(found))) == (ROWS, ROWS), data


def test_what_a_late_row_contradicts_is_found_in_the_whole_file(tmp_path: pathlib.Path) -> None:
    rows = 60_000  # beyond the first megabyte, from which readers infer types
    rng = np.random.default_rng(1)
    columns = {name: rng.integers(0, 10**6, rows).astype(str) for name in ("whole", "words", "broken")}
    columns["empty"] = np.full(rows, "")
    columns["whole"][-5], columns["words"][-7], columns["broken"][-9] = "1.5", "unknown", "12 kg"
    columns["empty"][-3:] = "4.5"
    columns["y"] = rng.choice(["a", "b"], rows)
    pd.DataFrame(columns).to_csv(tmp_path / "late.csv", index=False)
    found = propose(tmp_path / "late.csv")
    assert found.profile.column("whole").kind == "number"
    assert found.profile.column("words").nulls == 1
    assert found.profile.column("empty").nulls == rows - 3
    told = [remark for remark in found.unsure if "12 kg" in remark]
    assert told, found.unsure
    assert "broken" in told[0]
    assert "59,992" in told[0]
    spec = found.spec
    scanned = scan_rows(spec.dataset, spec.contract, spec.split, spec.features).scan
    assert scanned.failed == 1


def test_the_command_writes_a_spec_that_is_valid_and_lists_what_it_is_unsure_of(
    frame: pd.DataFrame, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    leaking = frame.assign(outcome=frame.y.map({"yes": 1.0, "no": 2.5}) + frame.x / 100)
    leaking.to_csv("data.csv", index=False)
    # The cluster has another working directory.
    command = ["init", str(tmp_path / "data.csv"), "--target", "y"]
    answer = CliRunner().invoke(raymlops, command, catch_exceptions=False)
    assert "400 rows, 5 columns; 3 features -> y, binary" in answer.output
    assert "Unsure     outcome may be known only after y" in answer.output
    assert read_spec("data.yaml").features.numbers == ("x", "n")
    assert "outcome" in pathlib.Path("data.profile.html").read_text()
    made = raymlops_api.init(tmp_path / "data.csv", "y", output=tmp_path / "again.yaml")
    assert made.text == (tmp_path / "again.yaml").read_text()
    assert made.spec.features == read_spec("data.yaml").features


def test_a_file_that_exists_is_not_replaced_unasked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "spec.yaml"
    proposal.write_new(path, "a: 1\n", overwrite=False)
    with pytest.raises(SpecError, match="--overwrite"):
        proposal.write_new(path, "a: 2\n", overwrite=False)
    proposal.write_new(path, "a: 2\n", overwrite=True)
    assert path.read_text() == "a: 2\n"


def test_a_row_of_another_width_is_told_with_the_remedy(tmp_path: pathlib.Path) -> None:
    lines = ["a,b,y", *(f"{n},{n % 7},{n % 2}" for n in range(300)), "1,2,3,4"]
    (tmp_path / "ragged.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"Expected 3 columns, got 4.*mend that row"):
        propose(tmp_path / "ragged.csv")


def test_features_that_are_called_like_outputs_of_the_model_get_another_name(
    tmp_path: pathlib.Path, frame: pd.DataFrame
) -> None:
    named = frame.rename(columns={"x": "label", "c": "probability"}).assign(label_in=frame["n"] % 7)
    found = propose(_write_text(tmp_path / "named.csv", named))
    assert {"label_in_", "label_in", "probability_in"} <= set(found.spec.features.by_column())
    rows = read(found)
    assert sorted(rows["label_in_"]) == sorted(frame["x"])
    assert sorted(rows["probability_in"]) == sorted(frame["c"])
