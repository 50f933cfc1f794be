import pathlib

import pytest

from raymlops.clusters import checks, storage
from raymlops.errors import StorageError

HERE, THERE = "10.0.0.4", "10.0.0.5"


@pytest.mark.parametrize(
    ("kept", "nodes", "told"),
    [
        ("/mnt/raymlops/storage", [HERE, THERE], None),
        ("file:///mnt/raymlops/storage", [HERE, THERE], None),
        ("{home}/storage", [HERE, HERE], None),
        ("{home}/storage", [HERE, THERE], "other nodes (10.0.0.5)"),
        ("/tmp/storage", [THERE], "a folder of this machine"),
        ("storage", [HERE], "temporary copy"),
        ("nope://bucket/x", [THERE], "Protocol not known"),
        ("/proc/storage", [HERE], "cannot be written"),
        ("{home}/file/storage", [HERE], "{home}/file: Not a directory"),
    ],
)
def test_a_storage_where_checkpoints_would_be_lost_is_told(
    kept: str, nodes: list[str], told: str | None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o600)
    kept = kept.format(home=tmp_path)
    if told is None:
        storage.require_storage(kept, nodes, home=str(tmp_path), here=[HERE])
        return
    with pytest.raises(StorageError) as raised:
        storage.require_storage(kept, nodes, home=str(tmp_path), here=[HERE])
    assert told.format(home=tmp_path) in str(raised.value)
    assert "/mnt/raymlops/storage" in str(raised.value)


def test_this_machine_knows_its_own_addresses() -> None:
    assert "127.0.0.1" in storage.own_addresses()


def test_a_cluster_without_shared_storage_is_told_by_the_same_rule_that_checks_its_file() -> None:
    (found,) = checks.check_storage({"docker": {"run_options": ["--env RAYMLOPS_STORAGE=/somewhere"]}})
    assert "inside the container" in found.what
