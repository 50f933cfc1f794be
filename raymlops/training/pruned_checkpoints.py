"""Before a search is resumed: puts back the checkpoint that Tune recorded last and has removed since.

Tune removes the oldest checkpoint of a trial before it records the newest one. A driver that is killed in between
leaves a record that names a checkpoint which is gone, and every try to resume the trial fails. The oldest checkpoint
that remains takes its place: it knows its own epoch. Reads no pickles.
"""

import json
import re

from raymlops import locations

_NAME = re.compile(r"checkpoint_([0-9]{6})")


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
        name = trial["relative_logdir"]
        if trial["status"] == "TERMINATED" or not filesystem.isdir(f"{folder}/{name}"):
            continue
        inside = filesystem.ls(f"{folder}/{name}", detail=False)
        found = sorted(
            int(match[1]) for path in inside if (match := _NAME.fullmatch(path.rpartition("/")[2]))
        )
        pruned = f"checkpoint_{found[0] - 1:06d}" if found and found[0] else ""
        if (
            pruned and pruned.encode().hex() in progress
        ):  # it is named in a pickle, which Tune writes as hex digits
            oldest = f"{folder}/{name}/checkpoint_{found[0]:06d}"
            filesystem.copy(oldest, f"{folder}/{name}/{pruned}", recursive=True)
            replaced.append(name)
    return replaced
