"""Runs commands of `raymlops` one after the other in this process, which joins one cluster; prints what each said.

python -m tests.kept_commands < COMMANDS > ANSWERS: JSON, a list of lists of arguments, and a list of [exit code, text].
"""

import json
import sys
import traceback

from click.testing import CliRunner

from raymlops import cli
from raymlops.settings import apply_process_defaults


def run(arguments: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(cli.raymlops, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return 1, "".join(traceback.format_exception(done.exception))
    return done.exit_code, done.stdout


if __name__ == "__main__":
    apply_process_defaults()
    said = [run(arguments) for arguments in json.load(sys.stdin)]
    print("\n" + json.dumps(said))
