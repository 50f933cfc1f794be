"""A reader as a stranger's record may name it: importing is told by one file, running by another."""

import os
import pathlib

import ray.data

FOLDER = pathlib.Path(os.environ.get("RECORDED_CODE_FOLDER", "/nonexistent"))
if FOLDER.is_dir():
    (FOLDER / "imported").touch()


def read_rows(**options: object) -> ray.data.Dataset:
    (FOLDER / "run").touch()
    return ray.data.from_items(
        [{"hour": float(hour), "carrier": "AA", "late": hour > 9} for hour in range(99)]
    )
