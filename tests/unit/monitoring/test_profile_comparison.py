"""Profiles of training rows of two versions: what changed in their data is told, and chance is not."""

import numpy as np
import pyarrow as pa

from raymlops.data.statistics import measure_column
from raymlops.monitoring.profile_comparison import compare_profiles


def profile(
    seed: int, shift: float = 0.0, nulls: float = 0.0, rows: int = 5000, few: float = 0.1
) -> dict[str, dict]:
    random = np.random.default_rng(seed)
    age = np.round(random.normal(40 + shift, 12, rows))
    income = random.lognormal(8, 1, rows)
    income[random.random(rows) < nulls] = np.nan
    kind = random.choice(["a", "b", "c"], rows, p=[0.6, 0.4 - few, few])
    columns = {
        "age": (pa.chunked_array([age]), "number"),
        "income": (pa.chunked_array([pa.array(income, from_pandas=True)]), "number"),
        "kind": (pa.chunked_array([pa.array(kind)]), "category"),
    }
    return {name: measure_column(values, kind).to_json() for name, (values, kind) in columns.items()}


def test_equal_data_do_not_differ_and_changed_columns_are_told_in_words() -> None:
    usual = profile(0)
    assert [found for seed in range(1, 41) for found in compare_profiles(usual, profile(seed))] == []
    (age,) = compare_profiles(usual, profile(1, shift=2.0))
    assert (age.column, "median 40" in age.first, "median 42" in age.second) == ("age", True, True)
    (income,) = compare_profiles(usual, profile(1, nulls=0.02))
    assert income.first.endswith("0.00% missing")
    (kind,) = compare_profiles(usual, profile(1, few=0.2, rows=800))
    assert "c 0.2" in kind.second
    lost, new = compare_profiles(
        usual, {name: one for name, one in usual.items() if name != "age"} | {"x": usual["age"]}
    )
    assert (lost.column, lost.second, new.column, new.first) == ("age", "", "x", "")
