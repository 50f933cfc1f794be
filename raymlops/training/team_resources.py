"""The placement group in which the workers of a team run. Tune ends a trial that its scheduler stops by ending its
process, and with it the controller of its team, which then cannot return the group: no other trial would get its CPUs.
So the workers report which it is, and the driver removes it once they are gone. Starts no team."""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, get_current_placement_group, placement_group_table

_KEY = "placement_group"
_PAUSE = 0.25
_LONGEST = 120.0
"""Seconds that a process may take to end."""


def describe_group() -> dict[str, str]:
    """What a worker adds to its report."""
    group = get_current_placement_group()
    return {} if group is None else {_KEY: group.id.hex()}


def remove_group(result: Mapping[str, Any] | None) -> None:
    """Return the resources of a team whose trial has ended, by the last result of that; does not wait for it."""
    held = (result or {}).get(_KEY)
    if held is not None:
        threading.Thread(target=_remove_when_empty, args=(held,), name="team-resources", daemon=True).start()


def _remove_when_empty(held: str) -> None:
    """A controller that still lives would start new workers in place of those that end with their group, in a new one
    that nobody knows."""
    group = PlacementGroup(type(PlacementGroup.empty().id).from_hex(held))
    ends = time.monotonic() + _LONGEST
    with contextlib.suppress(
        Exception
    ):  # of a cluster that was, where a search is resumed, or that has ended
        while time.monotonic() < ends and placement_group_table(group).get("state") == "CREATED":
            name = f"CPU_group_{held}"
            if ray.available_resources().get(name, 0) >= ray.cluster_resources().get(name, 1):
                break
            time.sleep(_PAUSE)
        ray.util.remove_placement_group(group)
