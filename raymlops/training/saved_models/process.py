"""A process that opens a saved model with its own library, and writes down the model as ONNX and the library's own
predictions: what a broken file does to the library ends this process alone.

    python -m raymlops.training.saved_models.process FOLDER

The folder has `request.json` and, if there is a sample, `sample.arrow`. Written are the files of `OpenedModel.save`,
and `answer.json`, which has the rest of it or what was refused.
"""

import contextlib
import importlib
import importlib.util
import json
import pathlib
import resource
import shlex
import sys
from typing import Any

import pyarrow as pa

from raymlops.errors import ArtifactError, RaymlopsError, UserError, shorten
from raymlops.training.saved_models import Format, Request, find_format

MEMORY = 8 * 2**30
"""Bytes of data of the process."""


def main(folder: pathlib.Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with contextlib.suppress(OSError):  # if memory is short, the system should kill this process first
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        answer = _run(folder)
    except RaymlopsError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    except MemoryError:
        answer = {"error": f"Its model takes over {MEMORY // 2**30} GiB", "kind": "ArtifactError"}
    (folder / "answer.json").write_text(json.dumps(answer))


def _run(folder: pathlib.Path) -> dict[str, Any]:
    asked = json.loads((folder / "request.json").read_text())
    file, sample = folder / asked["file"], None
    if (folder / "sample.arrow").is_file():
        with pa.ipc.open_file(folder / "sample.arrow") as reader:
            sample = reader.read_all()
    found = find_format(file)
    require_packages(found)
    reader = importlib.import_module(found.reader)
    try:
        opened = reader.open_model(
            Request(file, sample, asked["rounds"], asked["trust"], tuple(asked["classes"]))
        )
    except (RaymlopsError, MemoryError):
        raise
    except Exception as error:  # each library has its own kinds, beside those of Python
        reason = " ".join(str(error).partition("Stack trace")[0].split()) or type(error).__name__
        raise ArtifactError(
            f"{found.library} does not open it: {shorten(reason)}; save it again with {found.saved_by}"
        ) from None
    opened.save(folder)
    return {"opened": opened.to_json()}


def require_packages(found: Format) -> None:
    """Raises UserError if the library of a format is not installed."""
    missing = [name for name in found.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"Models of {found.library} are read with {', '.join(missing)}, not installed here; run: "
            f"pip install {shlex.quote(f'raymlops[{found.extra}]')}"
        )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
