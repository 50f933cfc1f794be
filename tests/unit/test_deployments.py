"""What is remembered of deployments at the storage path, and what a head that starts again finds there."""

import pathlib

import pytest

from raymlops.errors import NotFoundError, StorageError
from raymlops.serving.history import History, read_deployed
from raymlops.settings import Settings
from tests.conftest import settings_in


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Settings:
    return settings_in(tmp_path)


def test_a_head_finds_the_newest_of_each_application_and_not_what_was_taken_away(settings: Settings) -> None:
    assert read_deployed(settings) == []
    for name, configs in {"a": [{"v": 1}, {"v": 2}], "b": [{"v": 3}], "gone": [{"v": 4}, None]}.items():
        for config in configs:
            History(settings, name).add(config)
    assert read_deployed(settings) == [{"v": 2}, {"v": 3}]
    assert History(settings, "gone").previous() == {"v": 4}  # `deploy --rollback` brings it back


def test_shares_that_were_changed_are_remembered_and_a_rollback_goes_to_the_version_before(
    settings: Settings,
) -> None:
    past = History(settings, "a")
    past.amend({"v": 0})  # nothing was deployed
    assert past.read() == []
    past.add({"v": 1})
    past.add({"v": 2})
    past.amend({"v": 2, "share": 0.1})
    assert read_deployed(settings) == [{"v": 2, "share": 0.1}]
    assert past.previous() == {"v": 1}
    past.drop_newest()
    with pytest.raises(NotFoundError, match="no earlier"):
        past.previous()


def test_what_a_machine_that_died_left_half_written_is_not_read(
    settings: Settings, tmp_path: pathlib.Path
) -> None:
    History(settings, "a").add({"v": 1})
    (tmp_path / "storage" / "deployments" / "a" / "000002.json.part").write_text('{"v": ')
    assert read_deployed(settings) == [{"v": 1}]


def test_a_storage_that_nothing_opens_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        read_deployed(settings_in(tmp_path, RAYMLOPS_STORAGE="nope://bucket/x"))
