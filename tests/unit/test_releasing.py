from typing import Any

import pytest

from raymlops.serving.releasing import keep_weights, set_in_config


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
    assert told == [f"release {split}: old=0.3, new=0.7 stay, as set while it served"]


@pytest.mark.parametrize("changed", [make_config(old=0.5, new=0.5), make_config(branch="newer")])
def test_weights_changed_in_the_file_win_and_that_is_told(changed: dict[str, Any]) -> None:
    served = set_in_config(make_config(), "release", "canary", {"new": 1.0})
    kept, told = keep_weights(changed, served)
    assert kept == changed
    assert told == ["release canary: new=1, set while it served, give way to those of the file"]


def test_a_graph_that_is_gone_leaves_no_weights_behind() -> None:
    served = set_in_config(make_config(), "release", "canary", {"new": 1.0})
    without = {"name": "app", "args": {"graphs": {}}}
    assert keep_weights(without, served)[0] == without


def test_nothing_is_told_where_nothing_was_set() -> None:
    assert keep_weights(make_config(), make_config()) == (make_config(), [])
    assert keep_weights(make_config(), None) == (make_config(), [])
