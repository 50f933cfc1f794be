"""Every single change of a store that is listed, one after the other."""

import pathlib

import pytest

from tests.conftest import settings_in
from tests.forgeries import World
from tests.unit.lifecycle.govern.test_evidence import damage_and_repair
from tests.unit.lifecycle.govern.test_forgeries import require_noticed


@pytest.mark.timeout(1200)
def test_every_forgery_is_noticed(tmp_path: pathlib.Path) -> None:
    assert require_noticed(World(tmp_path), 1) > 250


@pytest.mark.parametrize("damage", ["entry", "forged tags", "unreadable"])
def test_a_repair_leaves_a_record_that_holds(tmp_path: pathlib.Path, damage: str) -> None:
    damage_and_repair(settings_in(tmp_path / "home"), damage, tmp_path)
