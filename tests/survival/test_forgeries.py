"""Every single change of a store that is listed, one after the other."""

import pathlib

import pytest

from tests.forgeries import World
from tests.unit.test_forgeries import require_noticed


@pytest.mark.timeout(1200)
def test_every_forgery_is_noticed(tmp_path: pathlib.Path) -> None:
    assert require_noticed(World(tmp_path), 1) > 250
