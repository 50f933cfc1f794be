import itertools
import pathlib
import re

import pydantic
import pytest

from raymlops.errors import SpecError
from raymlops.specs import labels
from raymlops.specs.code_references import find_code
from raymlops.specs.document import parse_document, read_document
from raymlops.specs.experiment import ExperimentSpec, space_key, with_parameters
from raymlops.specs.features import FeaturesSpec
from raymlops.training import learners, networks

JOBS = pathlib.Path(__file__).parents[3] / "jobs" / "specs"
SPEC = """\
name: toy
dataset: {path: rows.parquet}
features:
  target: {column: y}
  numbers: [a, b]
  categories: [c]
  columns:
    d: {kind: number, bins: 8}
"""


def toy() -> ExperimentSpec:
    return parse_document(SPEC, ExperimentSpec)


@pytest.mark.parametrize("file", sorted(JOBS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_specs_of_the_jobs_are_right(file: pathlib.Path) -> None:
    if "dataset:" not in file.read_text() or "target:" not in file.read_text():
        pytest.skip("not the spec of an experiment")
    spec = read_document(file, ExperimentSpec)
    networks.check_options(spec.network.name, dict(spec.network.options))


def test_a_spec_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        toy().training.lr = 3.0  # type: ignore[misc]


def test_inputs_come_in_the_order_of_the_spec() -> None:
    assert list(toy().features.by_column()) == ["a", "b", "c", "d"]


def test_parameters_of_a_trial_land_in_training_or_in_the_network() -> None:
    spec = with_parameters(toy(), {"lr": 0.5, "training.epochs": 3, "network.options.hidden": 64})
    assert (spec.training.lr, spec.training.epochs, spec.network.options) == (0.5, 3, {"hidden": 64})


def test_a_parameter_that_is_impossible_there_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training\.lr.*greater than 0"):
        with_parameters(toy(), {"lr": -1.0})


def test_a_key_of_the_space_may_leave_out_training() -> None:
    assert space_key("lr") == space_key("training.lr") == ("training", "lr")
    assert space_key("network.options.hidden") == ("network.options", "hidden")


def test_a_column_in_two_groups_is_refused_wherever_they_are() -> None:
    groups = ("numbers", "categories", "timestamps", "images")
    for first, second in itertools.combinations(groups, 2):
        with pytest.raises(pydantic.ValidationError, match="named twice"):
            FeaturesSpec.model_validate({"target": {"column": "y"}, first: ["a"], second: ["a"]})


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("spot", ["spot"]),
        ("!spot", ["on-demand", None]),
        ("in(spot, on-demand)", ["spot", "on-demand"]),
        ("!in(spot,on-demand)", [None]),
    ],
)
def test_labels_choose_nodes_as_ray_does(selector: str, fits: list[str | None]) -> None:
    assert labels.explain_mistake({"raymlops/market": selector}) is None
    for market in ("spot", "on-demand", None):
        node = {"raymlops/market": market} if market else {}
        assert labels.match({"raymlops/market": selector}, node) == (market in fits)


def test_an_elastic_training_asks_for_its_fewest_workers() -> None:
    spec = parse_document(SPEC + "training: {workers: 8, min_workers: 2}\n", ExperimentSpec)
    assert spec.training.fewest_workers == 2
    assert toy().training.fewest_workers == toy().training.workers == 1


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ("training: {options: {C: 1}}", "a network takes network.options"),
        ("search: {space: {training.options.C: {low: 1, high: 2}}}", "takes network.options.NAME"),
        ("training: {learner: 'a:B'}\nnetwork: {name: mlp, options: {hidden: 8}}", "leave network out"),
        (
            "training: {learner: 'a:B'}\nsearch: {space: {network.options.h: {low: 1, high: 2}}}",
            "takes training.options",
        ),
        ("training: {learner: 'a:b:c'}", "expected module.path:Class"),
    ],
)
def test_options_that_the_learner_would_not_read_are_refused(parts: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse_document(SPEC + parts + "\n", ExperimentSpec)


def test_a_learner_that_nobody_knows_is_refused_with_the_known_ones() -> None:
    spec = parse_document(SPEC + "training: {learner: netwrk}\n", ExperimentSpec)
    with pytest.raises(SpecError, match="did you mean 'network'"):
        learners.check(spec)
    own = parse_document(SPEC + "training: {learner: 'no.such.module:Class'}\n", ExperimentSpec)
    learners.check(own, imports=False)
    assert find_code(own) == ("training.learner: no.such.module:Class",)


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ("{target: {column: y}, numbers: [label]}", "'label' has the name of an output"),
        ("{target: {column: y, task: multiclass}, numbers: [probabilities]}", "name of an output"),
        (
            "{target: {column: y, task: regression}, categories: [prediction]}",
            "derive: {prediction_in: prediction}",
        ),
        (
            "{target: {column: y}, columns: {a: {kind: number, expression: probability * 2}}}",
            "'probability' has the name of an output",
        ),
        ("{target: {column: y}, numbers: [' ']}", "a column without a name"),
        ("{target: {column: y}, numbers: [answer/x]}", "begins like a name inside the model"),
    ],
)
def test_an_input_that_has_the_name_of_an_output_is_refused_before_training(features: str, told: str) -> None:
    with pytest.raises(SpecError, match=re.escape(told)):
        parse_document(f"name: toy\ndataset: {{path: a.csv}}\nfeatures: {features}", ExperimentSpec)


def test_names_that_are_none_of_its_outputs_are_inputs_of_a_model() -> None:
    for features, inputs in (
        ("{target: {column: y, task: regression}, numbers: [label, probability]}", {"label", "probability"}),
        ("{target: {column: y, task: binary}, numbers: [prediction]}", {"prediction"}),
        ("{target: {column: label}, columns: {label_in: {kind: number, expression: x + 1}}}", {"x"}),
        ("{target: {column: y}, columns: {label: {kind: number, expression: x + 1}}}", {"x"}),
    ):
        spec = parse_document(f"name: toy\ndataset: {{path: a.csv}}\nfeatures: {features}", ExperimentSpec)
        assert spec.features.raw_columns() == inputs
