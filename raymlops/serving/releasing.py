"""Changes the weights of a graph's split while it serves: an update of the application's config, no restart.

Such weights stay when the application is deployed again, unless its file has changed them since.
"""

import copy
from collections.abc import Mapping
from typing import Any

from raymlops.errors import NotFoundError, SpecError, unknown_name
from raymlops.serving import deploying

INGRESS = "Ingress"


def change_weights(
    application: str, graph: str, split: str, weights: Mapping[str, float], timeout_s: float = 60.0
) -> None:
    """New shares for the branches of a split, in all replicas; branches that are not named keep none.

    Raises NotFoundError for an unknown application or graph, SpecError for a wrong split or branch.
    """
    configs = deploying.running_configs()
    config = next((found for found in configs if found["name"] == application), None)
    if config is None:
        raise NotFoundError(unknown_name("application", application, [found["name"] for found in configs]))
    graphs = config["args"].get("graphs", {})
    if graph not in graphs:
        raise NotFoundError(unknown_name(f"graph of {application!r}:", graph, graphs))
    check_weights(graphs[graph], split, weights)
    deploying.deploy(set_in_config(config, graph, split, weights), timeout_s, report=lambda line: None)


def check_weights(graph: Mapping[str, Any], split: str, weights: Mapping[str, float]) -> None:
    """Raises SpecError before anything is changed."""
    splits = dict(_find_splits(graph))
    if split not in splits:
        raise SpecError(unknown_name("split:", split, splits))
    for branch, share in weights.items():
        if branch not in splits[split]:
            raise SpecError(unknown_name(f"branch of split {split!r}:", branch, splits[split]))
        if not share >= 0:
            raise SpecError(f"Weight {share} of branch {branch!r} is not 0 or more")
    if not sum(weights.values()) > 0:
        raise SpecError(f"Weights of split {split!r} sum to nothing; at least one must be above 0")


def _find_splits(graph: Mapping[str, Any], prefix: str = "") -> list[tuple[str, dict[str, float]]]:
    """Path and written weights of every split of a graph and those inside it."""
    found = []
    for name, node in graph["nodes"].items():
        if node["kind"] == "split":
            found.append((prefix + name, dict(node["weights"])))
        elif node["kind"] == "graph" and node.get("graph"):
            found += _find_splits(node["graph"], f"{prefix}{name}/")
    return found


def set_in_config(
    config: Mapping[str, Any], graph: str, split: str, weights: Mapping[str, float]
) -> dict[str, Any]:
    """The same application with other weights among its options that change without a restart."""
    changed = copy.deepcopy(dict(config))
    deployments = changed.setdefault("deployments", [])
    ingress = next((found for found in deployments if found["name"] == INGRESS), None)
    if ingress is None:
        ingress = {"name": INGRESS}
        deployments.append(ingress)
    options = ingress.get("user_config") or {}
    options.setdefault("weights", {}).setdefault(graph, {})[split] = dict(weights)
    ingress["user_config"] = options
    return changed


def keep_weights(
    config: Mapping[str, Any], before: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """The config with the weights that were set while `before` served, and a line for each split that had some.

    A split whose weights are written otherwise than before has those of its file.
    """
    kept, told = copy.deepcopy(dict(config)), []
    for graph, splits in _set_weights(before or {}).items():
        written = dict(_find_splits(config["args"]["graphs"].get(graph, {"nodes": {}})))
        written_before = dict(_find_splits((before or {})["args"]["graphs"].get(graph, {"nodes": {}})))
        for split, weights in splits.items():
            shares = ", ".join(f"{branch}={share:g}" for branch, share in weights.items())
            if written.get(split) != written_before.get(split):
                told.append(f"{graph} {split}: {shares}, set while it served, give way to those of the file")
                continue
            kept = set_in_config(kept, graph, split, weights)
            told.append(f"{graph} {split}: {shares} stay, as set while it served")
    return kept, told


def _set_weights(config: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """What was set while it served: graph -> split -> branch -> share."""
    ingress = [found for found in config.get("deployments") or [] if found["name"] == INGRESS]
    return (ingress[0].get("user_config") or {}).get("weights", {}) if ingress else {}
