"""Values of stages that need no cluster: they come back as they were, and a location that fails is told as such."""

import pathlib
from typing import Any

import numpy as np
import pytest

from raymlops.errors import StorageError
from raymlops.lifecycle.train import stage_outputs
from raymlops.lifecycle.train.verify_export import Proof
from raymlops.models.parity import Parity
from raymlops.training.trials import SearchResult, Trial

TRIALS = SearchResult(
    "roc_auc",
    (
        Trial("a", {"lr": 1e-3, "network.options.hidden": [8, 8]}, {"best_roc_auc": 0.5}, 1.5, "/gone/x", None),
        Trial("b", {"lr": 0.1}, {"train_loss": float("nan")}, 0.1, None, "ValueError: ü"),
    ),
    3.25,
)  # fmt: skip
EXAMPLE = {
    "word": np.array(["", "ü\0", "x"], dtype=object),
    "number": np.array([np.nan, 1 / 3, -np.inf], dtype=np.float32),
    "count": np.array([2**63 - 1, -(2**63), 0]),
    "flag": np.array([True, False, True]),
    "image": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
}


def test_results_of_trials_and_proofs_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    def again(value: Any) -> Any:
        first = stage_outputs.save(value, str(tmp_path / "first"))
        loaded = stage_outputs.load(type(value), str(tmp_path / "first"))
        assert stage_outputs.save(loaded, str(tmp_path / "second")).digest == first.digest
        return loaded

    assert repr(again(TRIALS)) == repr(TRIALS)  # NaN is not equal to itself
    proof = again(
        Proof(Parity(3, 1e-7, 0), {"roc_auc": 0.9}, {"kind": "numbers", "mean": float("nan")}, EXAMPLE)
    )
    assert list(proof.example) == list(EXAMPLE)
    for name, values in EXAMPLE.items():
        assert proof.example[name].dtype == values.dtype
        np.testing.assert_array_equal(proof.example[name], values)
    assert proof.parity == Parity(3, 1e-7, 0)


def test_a_location_that_fails_is_told_as_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Cannot write to .*/file/value'"):
        stage_outputs.save("3", str(tmp_path / "file" / "value"))
    with pytest.raises(StorageError, match=r"Cannot read .*/none'"):
        stage_outputs.load(bytes, str(tmp_path / "none"))
    with pytest.raises(TypeError, match="float cannot be saved"):
        stage_outputs.save(1.5, str(tmp_path / "value"))
