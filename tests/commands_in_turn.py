"""Runs commands of `raymlops` one after the other in one process, which imports the package and joins a cluster once;
each is told apart by its exit code and by what it said.

As a script, with FILE, it reads a JSON list of lists of arguments, and writes a list of [exit code, stdout, stderr] to
the file, since workers of Ray may write to its output.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that ended."""

    returncode: int
    stdout: str
    stderr: str


def run_in_turn(
    commands: Sequence[Sequence[str]], folder: pathlib.Path, environment: Mapping[str, str]
) -> list[Done]:
    """In a process of their own in `folder`, with this environment alone."""
    root = str(pathlib.Path(__file__).parents[1])
    paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
    with tempfile.NamedTemporaryFile() as file:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tests.commands_in_turn", file.name], input=json.dumps(commands),
            cwd=folder, env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return [Done(*one) for one in json.load(file)]


def _run(arguments: list[str]) -> tuple[int, str, str]:
    from raymlops import cli

    before = dict(os.environ)
    said, told = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            cli.main(arguments)
        except SystemExit as ended:
            code = ended.code
    for name in os.environ.keys() - before.keys():  # what a command sets is for the processes that it starts
        del os.environ[name]
    os.environ.update(before)
    return int(str(code)), said.getvalue(), told.getvalue()


if __name__ == "__main__":
    found = [_run(arguments) for arguments in json.load(sys.stdin)]
    pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
