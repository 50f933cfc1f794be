"""How much each parameter of a search determines a trial's result, by optuna. Runs no trial and reads none."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FEWEST = 5
"""Number of trials below which nothing can be said."""


def rank_parameters(
    trials: Sequence[Mapping[str, Any]], values: Sequence[float], *, falling: bool = False
) -> dict[str, float]:
    """Parameter -> its share of what decides whether a trial is among the best tenth, all together 1, largest first.

    `trials` are the parameters of each, `values` how good it was; smaller is better where they are `falling`. Empty for
    fewer than five trials, or when all are alike. Parameters that never change, or that some
    trials lack, are left out.
    PED-ANOVA (Watanabe et al. 2023, arxiv.org/abs/2304.10255).
    """
    kept = [place for place, value in enumerate(values) if np.isfinite(value)]
    trials, values = [trials[place] for place in kept], [float(values[place]) for place in kept]
    known = set.intersection(*({*trial} for trial in trials)) if trials else set()
    held = {name: [trial[name] for trial in trials] for name in sorted(known)}
    moving = {name: found for name, found in held.items() if len({str(value) for value in found}) > 1}
    if len(trials) < _FEWEST or len(set(values)) < 2 or not moving:
        return {}
    import optuna  # the import takes a while

    distributions = {name: _to_distribution(found) for name, found in moving.items()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="minimize" if falling else "maximize")
    finally:
        optuna.logging.set_verbosity(verbosity)
    for trial, value in zip(trials, values, strict=True):
        chosen = {name: _to_choice(trial[name], distributions[name]) for name in moving}
        study.add_trial(optuna.trial.create_trial(params=chosen, distributions=distributions, value=value))
    return {name: float(share) for name, share in optuna.importance.get_param_importances(study).items()}


def _to_distribution(values: Sequence[Any]) -> Any:
    import optuna

    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return optuna.distributions.FloatDistribution(low, high, log=0 < 100 * low < high)
    return optuna.distributions.CategoricalDistribution(sorted({str(value) for value in values}))


def _to_choice(value: Any, distribution: Any) -> Any:
    return float(value) if hasattr(distribution, "low") else str(value)
