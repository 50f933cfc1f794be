"""Changes the weights of a graph's split while it serves: an update of the application's config, without a restart.

Such weights are kept when the application is deployed again, unless its file has changed them since.
"""

import copy
from collections.abc import Mapping
from typing import Any

from raymlops.errors import NotFoundError, SpecError, unknown_name
from raymlops.graphs.kinds import split as split_kind
from raymlops.serving.deploy import client

INGRESS = "Ingress"


def change_weights(
    application: str, graph: str, split: str, shares: Mapping[str, str], timeout_s: float = 60.0
) -> dict[str, float]:
    """Set the weights of some branches of a split, in all replicas; returns those of all its branches.

    `shares` are as typed, see `resolve_shares`. Raises NotFoundError for an unknown application or graph, SpecError
    for a wrong split, branch or share.
    """
    configs = client.running_configs()
    config = next((found for found in configs if found["name"] == application), None)
    if config is None:
        raise NotFoundError(unknown_name("application", application, [found["name"] for found in configs]))
    weights = resolve_shares(split, find_weights(config, graph, split), shares)
    client.deploy(set_in_config(config, graph, split, weights), timeout_s, report=lambda line: None)
    return weights


def find_weights(config: Mapping[str, Any], graph: str, split: str) -> dict[str, float]:
    """The present weights of a split: those of its file, overridden by those set while it served.

    Raises NotFoundError, SpecError.
    """
    graphs = config["args"].get("graphs", {})
    if graph not in graphs:
        raise NotFoundError(unknown_name(f"graph of {config['name']!r}:", graph, graphs))
    splits = dict(_find_splits(graphs[graph]))
    if split not in splits:
        raise SpecError(unknown_name("split:", split, splits))
    return splits[split] | _set_weights(config).get(graph, {}).get(split, {})


def resolve_shares(split: str, present: Mapping[str, float], shares: Mapping[str, str]) -> dict[str, float]:
    """The weights of all branches of a split after a change of some.

    A number is a weight, and unnamed branches keep theirs. A percentage is a share of all requests, and unnamed
    branches divide the rest in their present proportion. Raises SpecError.
    """
    percents = [branch for branch, text in shares.items() if text.strip().endswith("%")]
    if percents and len(percents) < len(shares):
        raise SpecError(f"Shares of split {split!r} are percentages and weights; give one or the other")
    named = {branch: _read_number(branch, text.strip().removesuffix("%")) for branch, text in shares.items()}
    weights = split_kind.change_weights(split, present, named)
    if not percents:
        return weights
    total = sum(named.values())
    rest = {branch: weight for branch, weight in present.items() if branch not in named}
    others = sum(rest.values())
    if total > 100.0001 or (total < 99.9999 and not others):
        left = "" if others else ", and no other branch has a share"
        raise SpecError(f"Percentages of split {split!r} sum to {total:g}{left}; the maximum is 100")
    unit = max(0.0, 100 - total) / 100 / others if others else 0.0
    return {
        branch: round(named[branch] / 100 if branch in named else unit * weight, 9)
        for branch, weight in present.items()
    }


def _read_number(branch: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(
            f"Share {text!r} of branch {branch!r} is not a number; give a weight such as 0.1, or 10%"
        ) from None


def _find_splits(graph: Mapping[str, Any], prefix: str = "") -> list[tuple[str, dict[str, float]]]:
    """Path and written weights of every split of a graph, nested ones included."""
    found = []
    for name, node in graph["nodes"].items():
        if node["kind"] == "split":
            found.append((prefix + name, dict(node["weights"])))
        elif node.get("graph"):
            found += _find_splits(node["graph"], f"{prefix}{name}/")
    return found


def set_in_config(
    config: Mapping[str, Any], graph: str, split: str, weights: Mapping[str, float]
) -> dict[str, Any]:
    """The same application with other weights in its user_config, which changes without a restart."""
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

    A split whose written weights have changed gets those of its file.
    """
    kept, told = copy.deepcopy(dict(config)), []
    for graph, splits in _set_weights(before or {}).items():
        written = dict(_find_splits(config["args"]["graphs"].get(graph, {"nodes": {}})))
        written_before = dict(_find_splits((before or {})["args"]["graphs"].get(graph, {"nodes": {}})))
        for split, weights in splits.items():
            shares = ", ".join(f"{branch}={share:g}" for branch, share in weights.items())
            if written.get(split) != written_before.get(split):
                told.append(
                    f"{graph} {split}: {shares}, set while it served, are replaced by those of the file"
                )
                continue
            kept = set_in_config(kept, graph, split, weights)
            told.append(f"{graph} {split}: {shares} are kept, as set while it served")
    return kept, told


def _set_weights(config: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Weights set while it served: graph -> split -> branch -> share."""
    ingress = [found for found in config.get("deployments") or [] if found["name"] == INGRESS]
    return (ingress[0].get("user_config") or {}).get("weights", {}) if ingress else {}
