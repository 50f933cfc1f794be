"""Before a search is resumed: puts back checkpoints that Tune's last record names and that it has removed since.

Tune removes the oldest checkpoint of a trial before it records the newest one, and copies the record to the storage
path in the background, while the trial goes on. A driver that is killed meanwhile leaves a record that names
checkpoints which are gone, and every try to resume the trial fails. The oldest checkpoint that remains takes their
place: it knows its own epoch. Reads no pickles.
"""

import json
import re
from typing import Any

from raymlops import locations

_NAME = re.compile(r"checkpoint_([0-9]{6})")
_NAMED = re.compile(b"checkpoint_".hex() + "((?:3[0-9]){6})")
"""The same in a pickle, which Tune writes as hex digits."""


def replace_pruned(location: str) -> list[str]:
    """Copies checkpoints of trials that have not ended, in the folder of a search; returns the trials' names."""
    filesystem, folder = locations.open_location(location)
    states = [path for path in filesystem.ls(folder, detail=False) if "/experiment_state-" in path]
    if not states:
        return []
    state = json.loads(filesystem.cat_file(max(states)))
    replaced = []
    for record, progress in state["trial_data"]:
        trial = json.loads(record)
        home = f"{folder}/{trial['relative_logdir']}"
        if trial["status"] == "TERMINATED" or not filesystem.isdir(home):
            continue
        found = _list_checkpoints(filesystem, home)
        named = {int(bytes.fromhex(digits)) for digits in _NAMED.findall(progress)}
        gone = sorted(number for number in named if found and number < found[0])
        for number in gone:
            _copy(filesystem, f"{home}/checkpoint_{found[0]:06d}", f"{home}/checkpoint_{number:06d}")
        if gone:
            replaced.append(trial["relative_logdir"])
    return replaced


def _list_checkpoints(filesystem: Any, folder: str) -> list[int]:
    """Numbers of the checkpoints that have files: a removal that was cut off leaves an empty folder."""
    return sorted(
        int(match[1])
        for path in filesystem.ls(folder, detail=False)
        if (match := _NAME.fullmatch(path.rpartition("/")[2])) and filesystem.find(path)
    )


def _copy(filesystem: Any, source: str, target: str) -> None:
    """File by file, since buckets have no folders; no file is ever half there, so that a copy that was cut off is
    made again."""
    for path in filesystem.find(source):
        inside = path.rpartition(f"/{source.rpartition('/')[2]}/")[2]
        copied = f"{target}/{inside}"
        filesystem.copy(path, f"{target}.new")
        filesystem.makedirs(copied.rpartition("/")[0], exist_ok=True)
        filesystem.mv(f"{target}.new", copied)
