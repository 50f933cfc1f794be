"""Storage that fills under a team of two workers; tests/ray/test_saving.py fills it under one."""

import pathlib

import pytest

from raymlops.lifecycle.train.prepare import Prepared
from tests.ray.conftest import ray_cluster
from tests.ray.test_saving import check_full_storage, prepared

__all__ = ["prepared", "ray_cluster"]  # fixtures


@pytest.mark.timeout(600)
def test_storage_that_fills_ends_the_search_of_a_team_and_it_goes_on_once_there_is_room(
    prepared: Prepared,
    tmp_path: pathlib.Path,
) -> None:
    check_full_storage(prepared, tmp_path, workers=2)
