"""The sample of the rows on which values are tried first."""

import numpy as np

from raymlops.training.packed import PackedSplit, draw_evenly


def test_a_sample_has_the_classes_and_the_spread_of_all_rows_and_depends_on_the_seed_alone() -> None:
    labels = np.repeat([0, 1, 2], [8_000, 1_500, 500])
    numbers = draw_evenly(labels, 1_000, seed=3)
    assert len(set(numbers.tolist())) == 1_000
    assert np.bincount(labels[numbers]).tolist() == [800, 150, 50]
    assert (numbers == draw_evenly(labels, 1_000, seed=3)).all()
    assert (numbers != draw_evenly(labels, 1_000, seed=4)).any()
    values = np.random.default_rng(0).normal(size=10_000)
    wanted, found = (
        np.quantile(part, [0.1, 0.5, 0.9]) for part in (values, values[draw_evenly(values, 500, 0)])
    )
    assert np.abs(wanted - found).max() < 0.05


def test_a_sample_of_all_rows_or_more_is_the_rows_themselves() -> None:
    split = PackedSplit(100)
    assert split.sample(None, 0) is split.sample(100, 0) is split.sample(200, 0) is split
