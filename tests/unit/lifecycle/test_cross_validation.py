"""Intervals over folds."""

import numpy as np
import pytest

from raymlops.errors import SpecError
from raymlops.lifecycle.train import cross_validation
from raymlops.specs.dataset import TimeSplit
from tests import experiments


@pytest.mark.parametrize(("count", "quantile"), [(3, 4.303), (5, 2.776), (10, 2.262), (50, 2.010)])
def test_the_interval_is_that_of_student_with_the_variance_of_trainings_that_share_rows(
    count: int, quantile: float
) -> None:
    values = np.random.default_rng(0).normal(0.8, 0.02, count).tolist()
    found = cross_validation.to_interval(values, test_share=0.2)
    width = quantile * np.std(values, ddof=1) * np.sqrt(1 / count + 0.25)
    assert found.value == pytest.approx(np.mean(values))
    assert found.high - found.value == pytest.approx(width, rel=0.04)
    assert found.value - found.low == pytest.approx(width, rel=0.04)


def test_what_has_no_folds_is_refused_before_anything_runs() -> None:
    spec = experiments.spec_of("folds", {"path": "unread"}, evaluation={"folds": 5})
    cross_validation.check(spec)
    by_time = spec.model_copy(update={"split": TimeSplit(by="time", column="when")})
    with pytest.raises(SpecError, match="a split by time has no folds"):
        cross_validation.check(by_time)
    with pytest.raises(SpecError, match="expected 0, or 3 and more"):
        experiments.spec_of("folds", {"path": "unread"}, evaluation={"folds": 2})
