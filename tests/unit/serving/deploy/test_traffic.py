from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from raymlops.errors import NotFoundError, SpecError
from raymlops.serving.deploy.traffic import find_weights, keep_weights, resolve_shares, set_in_config


def make_config(old: float = 1.0, new: float = 0.0, branch: str = "new") -> dict[str, Any]:
    """An application with one graph of one split, as it is deployed from its file."""
    split = {"kind": "split", "weights": {"old": old, branch: new}}
    inner = {"kind": "graph", "graph": {"nodes": {"deep": split}}}
    nodes = {"canary": split, "inside": inner, "old": {"kind": "model", "model": "m.onnx"}}
    return {"name": "app", "args": {"graphs": {"release": {"nodes": nodes}}}}


def weights_of(config: dict[str, Any]) -> Any:
    return config["deployments"][0]["user_config"]["weights"] if config.get("deployments") else {}


@pytest.mark.parametrize("split", ["canary", "inside/deep"])
def test_weights_set_while_it_served_stay_when_it_is_deployed_again(split: str) -> None:
    served = set_in_config(make_config(), "release", split, {"old": 0.3, "new": 0.7})
    kept, told = keep_weights(make_config(), served)
    assert weights_of(kept) == {"release": {split: {"old": 0.3, "new": 0.7}}}
    assert told == [f"release {split}: old=0.3, new=0.7 are kept, as set while it served"]


@pytest.mark.parametrize("changed", [make_config(old=0.5, new=0.5), make_config(branch="newer")])
def test_weights_changed_in_the_file_win_and_that_is_told(changed: dict[str, Any]) -> None:
    served = set_in_config(make_config(), "release", "canary", {"new": 1.0})
    kept, told = keep_weights(changed, served)
    assert kept == changed
    assert told == ["release canary: new=1, set while it served, are replaced by those of the file"]


def test_a_graph_that_is_gone_leaves_no_weights_behind() -> None:
    served = set_in_config(make_config(), "release", "canary", {"new": 1.0})
    without = {"name": "app", "args": {"graphs": {}}}
    assert keep_weights(without, served)[0] == without


def test_nothing_is_told_where_nothing_was_set() -> None:
    assert keep_weights(make_config(), make_config()) == (make_config(), [])
    assert keep_weights(make_config(), None) == (make_config(), [])


PRESENT = {"a": 6.0, "b": 3.0, "c": 1.0}


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ({"a": "0"}, {"a": 0, "b": 3, "c": 1}),
        ({"b": "0.5"}, {"a": 6, "b": 0.5, "c": 1}),
        ({"c": "10%"}, {"a": 0.6, "b": 0.3, "c": 0.1}),
        ({"a": "0%"}, {"a": 0, "b": 0.75, "c": 0.25}),
        ({"a": "100%"}, {"a": 1, "b": 0, "c": 0}),
        ({"a": "50%", "b": "50%"}, {"a": 0.5, "b": 0.5, "c": 0}),
    ],
)
def test_a_change_of_shares_leaves_those_that_are_not_named_as_they_are_to_each_other(
    shares: dict[str, str], weights: dict[str, float]
) -> None:
    assert resolve_shares("canary", PRESENT, shares) == pytest.approx(weights)


@hypothesis.given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 100), min_size=2, max_size=6), st.data()
)
def test_named_branches_get_what_was_asked_and_the_others_keep_their_ratios(
    present: dict[str, float], data: st.DataObject
) -> None:
    named = data.draw(st.sets(st.sampled_from(sorted(present)), min_size=1, max_size=len(present) - 1))
    percent = data.draw(st.booleans())
    asked = {branch: data.draw(st.integers(0, 100 // len(named))) for branch in sorted(named)}
    hypothesis.assume(not percent or sum(asked.values()) < 100)
    weights = resolve_shares(
        "s", present, {branch: f"{share}{'%' if percent else ''}" for branch, share in asked.items()}
    )
    assert weights.keys() == present.keys()
    total = sum(weights.values()) if percent else 1
    for branch, share in asked.items():
        assert weights[branch] / total == pytest.approx(share / (100 if percent else 1), abs=1e-6)
    ratios = {branch: weights[branch] / present[branch] for branch in present.keys() - named}
    assert max(ratios.values()) == pytest.approx(min(ratios.values()), rel=1e-4)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"a": "0", "b": "0", "c": "0"}, "at least one must be above 0"),
        ({"aa": "1"}, "did you mean 'a'"),
        ({"a": "-1"}, "not 0 or more"),
        ({"a": "nan"}, "not 0 or more"),
        ({"a": "inf"}, "not 0 or more"),
        ({"a": "ten"}, "is not a number"),
        ({"a": "60%", "b": "60%"}, "sum to 120"),
        ({"a": "20%", "b": "20%", "c": "20%"}, "sum to 60, and no other branch has a share"),
        ({"a": "20%", "b": "1"}, "give one or the other"),
    ],
)
def test_shares_that_cannot_be_given_are_refused(shares: dict[str, str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        resolve_shares("canary", PRESENT, shares)


@pytest.mark.parametrize("split", ["canary", "inside/deep"])
def test_the_present_weights_are_those_that_were_set_while_it_served(split: str) -> None:
    assert find_weights(make_config(), "release", split) == {"old": 1.0, "new": 0.0}
    served = set_in_config(make_config(), "release", split, {"new": 0.7})
    assert find_weights(served, "release", split) == {"old": 1.0, "new": 0.7}
    with pytest.raises(NotFoundError, match="did you mean 'release'"):
        find_weights(served, "releas", split)
    with pytest.raises(SpecError, match="did you mean 'canary'"):
        find_weights(served, "release", "canari")
