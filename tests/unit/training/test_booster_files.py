import json
import pathlib
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost

from raymlops.errors import ArtifactError, DataError
from raymlops.training.booster_files import make_rows, match_columns
from raymlops.training.saved_models import find_format
from raymlops.training.saved_models.boosters import read
from raymlops.training.saved_models.process import main

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(200, 3)).astype(np.float32)
LABEL = (ROWS[:, 0] > 0).astype(int)


def train_xgboost(
    label: Any = LABEL, rounds: int = 4, names: Any = None, **parameters: Any
) -> dict[str, Any]:
    data = xgboost.DMatrix(ROWS, label, feature_names=names)
    given = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1, "verbosity": 0, **parameters}
    found: dict[str, Any] = json.loads(bytes(xgboost.train(given, data, rounds).save_raw("json")))
    return found


def train_lightgbm(label: Any = LABEL, **parameters: Any) -> str:
    given = {"objective": "binary", "num_leaves": 4, "verbosity": -1, "num_threads": 1, **parameters}
    return str(lightgbm.train(given, lightgbm.Dataset(ROWS, label), 4).model_to_string())


def dump(model: dict[str, Any]) -> bytes:
    return json.dumps(model).encode()


def test_a_model_of_xgboost_has_its_best_rounds_or_those_asked_for() -> None:
    model = train_xgboost(rounds=6)
    model["learner"]["attributes"]["best_iteration"] = "2"
    assert [read("xgboost", dump(model), rounds).rounds for rounds in (None, 5)] == [3, 5]
    for rounds in (0, 7):
        with pytest.raises(ArtifactError, match=f"has 6 rounds, and {rounds} were asked for"):
            read("xgboost", dump(model), rounds)


@pytest.mark.parametrize(
    ("parameters", "label", "message"),
    [
        ({"booster": "gblinear"}, LABEL, "gblinear"),
        ({"booster": "dart"}, LABEL, "dart"),
        ({"objective": "rank:pairwise"}, LABEL, "objective .*rank:pairwise"),
        ({"objective": "reg:squarederror"}, np.stack([LABEL, LABEL], axis=1), "2 targets"),
        ({"objective": "binary:hinge"}, LABEL, "binary:hinge"),
    ],
)
def test_what_has_no_equal_in_onnx_is_refused(parameters: Any, label: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read("xgboost", dump(train_xgboost(label, **parameters)), None)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objective": "lambdarank"}, "lambdarank"),
        ({"objective": "multiclassova", "num_class": 2}, "multiclassova"),
        ({"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}, "averages"),
        ({"objective": "regression", "reg_sqrt": True}, "reg_sqrt"),
        ({"zero_as_missing": True}, "zero_as_missing"),
        ({"objective": "regression", "linear_tree": True}, "linear leaves"),
        ({"max_cat_to_onehot": 9}, "categories"),
    ],
)
def test_what_lightgbm_does_in_its_own_way_is_refused(parameters: Any, message: str) -> None:
    rows = np.column_stack([ROWS[:, 0], np.arange(200) % 4, ROWS[:, 2]])
    own = "max_cat_to_onehot" in parameters
    label = rows[:, 1] % 2 if own else LABEL
    data = lightgbm.Dataset(
        rows,
        label,
        categorical_feature=[1] if own else "auto",
        group=[200] if parameters.get("objective") == "lambdarank" else None,
        params={"verbosity": -1},
    )
    given = {"objective": "binary", "num_leaves": 4, "verbosity": -1, "num_threads": 1, **parameters}
    text = lightgbm.train(given, data, 3).model_to_string()
    with pytest.raises(ArtifactError, match=message):
        read("lightgbm", text.encode(), None)


def test_a_file_of_lightgbm_that_lost_trees_is_refused() -> None:
    text = train_lightgbm()
    lost = text[: text.index("\nTree=2")] + text[text.index("\nend of trees") :]
    with pytest.raises(ArtifactError, match="2 trees, and its header says otherwise"):
        read("lightgbm", lost.encode(), None)
    for broken in (text[:300], "", "tree\n\nend of trees", text.replace("leaf_value=", "leaf_valve=")):
        with pytest.raises(ArtifactError, match="whole"):
            read("lightgbm", broken.encode(), None)


@pytest.mark.parametrize(
    ("part", "value"),
    [("left_children", 0), ("left_children", 99), ("split_indices", 3), ("right_children", 1)],
)
def test_trees_with_loops_and_features_that_are_not_there_are_refused(part: str, value: int) -> None:
    model = train_xgboost()
    model["learner"]["gradient_booster"]["model"]["trees"][1][part][0] = value
    with pytest.raises(ArtifactError, match="Tree 1 of the model is broken"):
        read("xgboost", dump(model), None)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"not JSON", b'{"learner": 3}', b'{"learner": {"objective": []}}']
)
def test_json_of_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a whole model of xgboost"):
        read("xgboost", content, None)


def test_endings_of_other_formats_are_answered_with_those_that_are_read() -> None:
    found = [find_format(pathlib.Path(name)).library for name in ("a.json", "b.UBJ", "c.d.txt")]
    assert found == ["XGBoost", "XGBoost", "LightGBM"]
    for name in ("m.pkl", "m.joblib", "m", "m.h5"):
        with pytest.raises(ArtifactError, match=r"\.json and \.ubj of XGBoost .* Pickles are never loaded"):
            find_format(pathlib.Path(name))


def test_columns_are_found_by_name_and_without_names_by_order() -> None:
    named = read("xgboost", dump(train_xgboost(names=["a", "b", "c"])), None)
    assert match_columns(named, ["y", "c", "b", "a"]) == ("a", "b", "c")
    with pytest.raises(DataError, match=r"'c'.*the sample lacks it"):
        match_columns(named, ["a", "b", "y"])
    for booster in (
        read("xgboost", dump(train_xgboost()), None),
        read("lightgbm", train_lightgbm().encode(), None),
    ):
        assert match_columns(booster, ["q", "r", "s"]) == ("q", "r", "s")
        with pytest.raises(DataError, match="no names of its 3 features, and the sample has 4"):
            match_columns(booster, ["q", "r", "s", "y"])


def test_rows_are_made_at_both_sides_of_thresholds_and_of_missing_values() -> None:
    booster = read("xgboost", dump(train_xgboost()), None)
    rows = make_rows(booster)
    tree = booster.ensemble.trees[0]
    threshold = tree.threshold[0]
    values = rows[:, tree.feature[0]]
    assert (values == threshold).any()
    assert (values == np.nextafter(threshold, np.float32(np.inf))).any()
    assert 0.05 < np.isnan(rows).mean() < 0.15


def test_the_library_says_in_its_answer_what_it_does_not_open(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.setrlimit", lambda *limits: None)  # of this process
    for name, content in (
        ("source.json", dump(train_xgboost())[:700]),
        ("source.json", b"\x80\x04K\x01."),
        ("source.txt", b"\xff\xfe"),
    ):
        (tmp_path / name).write_bytes(content)
        request = {"file": name, "rounds": None, "trust": False, "classes": []}
        (tmp_path / "request.json").write_text(json.dumps(request))
        main(tmp_path)
        assert "does not open it" in json.loads((tmp_path / "answer.json").read_text())["error"]
