"""Keras on TensorFlow as a learner, and SavedModels, in an environment that has it."""

import pytest

from tests.extras.environments import run_tests

pytestmark = pytest.mark.timeout(2400)  # the environment, 1.3 GB, is made by the first test


def test_the_learner_and_saved_models() -> None:
    run_tests("tensorflow", "tensorflow_tests.py", seconds=1200)
