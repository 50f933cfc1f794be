"""Marks tell searches that were cut off from those that run, that ended, and that are of another spec."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest

from raymlops.errors import DataError, SpecError
from raymlops.lifecycle.train import run_heartbeat
from raymlops.specs.experiment import ExperimentSpec
from tests.experiments import spec_of

SPEC = spec_of("digits", {"path": "rows.parquet"})
CHILD = """
import os, sys
from raymlops.lifecycle.train import run_heartbeat
from tests.experiments import spec_of
with run_heartbeat.keep_heartbeat(sys.argv[1], sys.argv[2], spec_of("digits", {"path": "rows.parquet"}), "data"):
    os._exit(9)  # as a killed process ends
"""


def find(folder: pathlib.Path, spec: ExperimentSpec = SPEC, name: str | None = None) -> str | None:
    found = run_heartbeat.find_lost(str(folder), spec, name, print)
    return found.name if found else None


def test_a_search_that_ended_is_not_gone_on_with_and_one_that_failed_is(tmp_path: pathlib.Path) -> None:
    with run_heartbeat.keep_heartbeat(str(tmp_path), "digits-1", SPEC, "data"):
        assert find(tmp_path) is None  # it runs
        assert "'digits-1' still runs" in run_heartbeat.explain_none(str(tmp_path), SPEC, None)
    assert find(tmp_path) is None
    assert "nothing under" in run_heartbeat.explain_none(str(tmp_path), SPEC, None)
    with (
        pytest.raises(ValueError, match="it broke"),
        run_heartbeat.keep_heartbeat(str(tmp_path), "digits-2", SPEC, "data"),
    ):
        raise ValueError("it broke")
    assert find(tmp_path) == "digits-2"


def test_a_search_that_its_spec_ended_is_not_gone_on_with_and_one_whose_data_failed_is(
    tmp_path: pathlib.Path,
) -> None:
    for error, found in (
        (SpecError("nothing to vary"), None),
        (DataError("Cannot read 's3://bucket/rows'"), "digits-1"),
    ):
        with (
            pytest.raises(type(error)),
            run_heartbeat.keep_heartbeat(str(tmp_path), "digits-1", SPEC, "data"),
        ):
            raise error
        assert find(tmp_path) == found


def test_a_search_whose_process_was_killed_is_gone_on_with(tmp_path: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), "digits-3"], check=False)
    assert done.returncode == 9
    heartbeat = run_heartbeat.read_heartbeat(str(tmp_path), "digits-3")
    assert heartbeat is not None
    assert (heartbeat.done, heartbeat.data) == (False, "data")
    assert find(tmp_path) == find(tmp_path, name="digits-3") == "digits-3"
    assert find(tmp_path, name="digits-4") is None


def test_another_spec_is_not_gone_on_with_and_more_trials_are_the_same_spec(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(ValueError, match="it broke"),
        run_heartbeat.keep_heartbeat(str(tmp_path), "digits-1", SPEC, "data"),
    ):
        raise ValueError("it broke")
    more = SPEC.model_copy(update={"search": SPEC.search.model_copy(update={"trials": 50})})
    other = SPEC.model_copy(update={"training": SPEC.training.model_copy(update={"seed": 1})})
    assert find(tmp_path, more) == "digits-1"
    assert find(tmp_path, other) is None
    assert "its spec differs" in run_heartbeat.explain_none(str(tmp_path), other, None)


def test_a_driver_elsewhere_is_dead_once_it_writes_no_more(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_heartbeat, "_PERIOD", 0.01)
    monkeypatch.setattr(run_heartbeat, "_SILENCE", 0.5)
    said: list[str] = []

    def is_lost(heartbeat: run_heartbeat.Heartbeat | None) -> bool:
        assert heartbeat is not None
        return run_heartbeat.is_lost(
            str(tmp_path), dataclasses.replace(heartbeat, host="elsewhere"), said.append
        )

    with run_heartbeat.keep_heartbeat(str(tmp_path), "digits-1", SPEC, "data"):
        heartbeat = run_heartbeat.read_heartbeat(str(tmp_path), "digits-1")
        assert not is_lost(heartbeat)  # it was written again
    assert "started on elsewhere, still runs" in said[0]
    run_heartbeat._write(str(tmp_path), dataclasses.replace(heartbeat, beat=0.0))
    silent = run_heartbeat.read_heartbeat(str(tmp_path), "digits-1")
    assert is_lost(silent)
    assert silent is not None
    assert not run_heartbeat.is_lost(
        str(tmp_path), dataclasses.replace(silent, host="elsewhere")
    )  # in doubt it lives


def test_searches_begun_before_specs_had_learners_are_gone_on_with() -> None:
    spec = ExperimentSpec.model_validate({
        "name": "kept", "dataset": {"reader": "parquet", "path": "rows.csv"},
        "features": {"target": {"column": "y"}, "numbers": ["x"]},
        "network": {"options": {"hidden": 8}}, "training": {"epochs": 3},
        "search": {"space": {"lr": {"low": 0.1, "high": 1.0}}},
    })  # fmt: skip
    # What was written beside searches by then.
    recorded = "60300f6f00f7bac03b6dfb6c8269f2cc7f644714ae5361b2e6c57b2073bca6dc"
    assert recorded in run_heartbeat.digests_of(spec)


def test_a_search_goes_on_with_its_spec_whatever_its_keys_are_called_by_then() -> None:
    """The digest is what a version before `resize_s` recorded of the same spec."""
    spec = ExperimentSpec.model_validate(
        {
            "name": "toy",
            "dataset": {"reader": "csv", "path": "rows.csv"},
            "features": {"target": {"column": "y"}, "numbers": ["a"]},
            "training": {"workers": 2, "min_workers": 1, "resize_s": 7},
        }
    )
    recorded = "ba6a7d8115bb93d8d2bddfc3dc8709a28374fac08fbefd343b4e4312952b126d"
    assert recorded in run_heartbeat.digests_of(spec)
