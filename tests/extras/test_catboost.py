"""The learner catboost and saved models of CatBoost, in an environment that has it."""

import pytest

from tests.extras.environments import run_tests

pytestmark = pytest.mark.timeout(1200)  # the environment is made by the first test


def test_the_learner_and_saved_models() -> None:
    run_tests("catboost", "catboost_tests.py")
