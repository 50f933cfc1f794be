"""Features by patterns and `auto`: which columns they stand for."""

import pytest

from raymlops.data.feature_columns import resolve_patterns
from raymlops.errors import SpecError
from raymlops.specs.document import parse_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.features import FeaturesSpec

COLUMNS = ["f_1", "f_2", "f_10", "c_a", "c_b", "x[0]", "y", "id"]


def features(**given: object) -> FeaturesSpec:
    return FeaturesSpec.model_validate({"target": {"column": "y"}, **given})


def test_a_pattern_stands_for_the_columns_that_no_other_place_names_in_the_order_of_the_table() -> None:
    spec = features(numbers=["f_*"], categories=["c_?", "f_2"], exclude=["f_10"])
    assert spec.is_open
    found = resolve_patterns(spec, COLUMNS)
    assert (found.numbers, found.categories) == (("f_1",), ("c_a", "c_b", "f_2"))
    assert not found.is_open


def test_a_column_of_exactly_this_name_is_no_pattern() -> None:
    assert resolve_patterns(features(numbers=["x[0]"]), COLUMNS).numbers == ("x[0]",)


def test_the_target_and_the_column_of_groups_are_never_matched() -> None:
    assert resolve_patterns(features(numbers=["*"]), COLUMNS, apart=["id"]).numbers == tuple(COLUMNS[:6])


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"numbers": ["g_*"]}, "no column matches 'g_\\*'"),
        ({"numbers": ["f_*"], "categories": ["*_1"]}, "name the column in one of them"),
        ({"numbers": ["f_*"], "exclude": ["f_3"]}, "Unknown column 'f_3'"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(given: dict[str, list[str]], remedy: str) -> None:
    with pytest.raises(SpecError, match=remedy):
        resolve_patterns(features(**given), COLUMNS)


def test_features_may_be_auto_in_one_word() -> None:
    text = "{name: m, dataset: {path: x.parquet}, features: auto%s}"
    spec = parse_document(text % ", target: y", ExperimentSpec)
    assert (spec.features.auto, spec.features.target.column) == (True, "y")
    with pytest.raises(SpecError, match="features: auto needs target"):
        parse_document(text % "", ExperimentSpec)
