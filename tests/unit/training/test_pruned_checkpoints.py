import json
import pathlib
import pickle

from raymlops.training.pruned_checkpoints import replace_pruned


def write_trial(folder: pathlib.Path, name: str, *numbers: int) -> None:
    for number in numbers:
        checkpoint = folder / name / f"checkpoint_{number:06d}" / "inner"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state").write_text(str(number))


def test_a_checkpoint_that_was_removed_before_the_record_was_written_is_replaced_by_the_oldest(
    tmp_path: pathlib.Path,
) -> None:
    assert replace_pruned(str(tmp_path)) == []  # before Tune wrote anything
    trials = {
        "running": "RUNNING",
        "failed": "ERROR",
        "ended": "TERMINATED",
        "first": "RUNNING",
        "new": "PENDING",
    }
    named = pickle.dumps({"path": "/storage/trial/checkpoint_000003"}).hex()
    records = [
        [json.dumps({"status": told, "relative_logdir": name}), json.dumps({"value": named})]
        for name, told in trials.items()
    ]
    (tmp_path / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps({"trial_data": []}))
    (tmp_path / "experiment_state-2026-01-02_00-00-00.json").write_text(json.dumps({"trial_data": records}))
    for name in ("running", "failed", "ended"):
        write_trial(tmp_path, name, 4, 5)
    write_trial(tmp_path, "first", 0, 1)
    write_trial(tmp_path, "recorded", 2, 3)
    assert replace_pruned(str(tmp_path)) == ["running", "failed"]
    found = {path.parts[-4]: path.read_text() for path in tmp_path.glob("*/checkpoint_000003/inner/state")}
    assert found == {"running": "4", "failed": "4", "recorded": "3"}
    assert not (tmp_path / "recorded" / "checkpoint_000001").exists()
    assert not (tmp_path / "new").exists()


def test_checkpoints_are_replaced_where_the_record_is_older_or_a_removal_or_copy_was_cut_off(
    tmp_path: pathlib.Path,
) -> None:
    named = pickle.dumps({"kept": ["a/checkpoint_000002", "a/checkpoint_000003"]}).hex()
    names = ("older", "emptied", "copied")
    records = [
        [json.dumps({"status": "RUNNING", "relative_logdir": name}), json.dumps({"value": named})]
        for name in names
    ]
    (tmp_path / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps({"trial_data": records}))
    for name in names:
        write_trial(tmp_path, name, 6, 7)
    (tmp_path / "emptied" / "checkpoint_000003").mkdir()
    (tmp_path / "copied" / "checkpoint_000003.new").write_text("ha")
    assert replace_pruned(str(tmp_path)) == list(names)
    for name in names:
        inside = {path.parts[-3]: path.read_text() for path in (tmp_path / name).glob("*/inner/state")}
        assert inside == {
            "checkpoint_000002": "6", "checkpoint_000003": "6", "checkpoint_000006": "6", "checkpoint_000007": "7"
        }, name  # fmt: skip
    assert replace_pruned(str(tmp_path)) == []
