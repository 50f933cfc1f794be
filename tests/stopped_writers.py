"""A script: writers of one record that are killed, or stopped for longer than their lease, at a call of the store.

`KILL3` is SIGKILL before the third writing call, `STOP3+` is SIGSTOP after it. Each writer is a process of its own,
forked from one that has MLflow loaded. Prints a line of JSON a case, and one of what is found afterwards.
"""

import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from raymlops.settings import Settings
from raymlops.tracking import history, history_writer, lease, store

lease.LEASE_S = 1.0
lease.RENEWAL_S = 600.0  # a beat that is stopped halfway would hold the lock of SQLite's file
CALLS = (
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_registered_model_alias",
    "set_model_version_tag",
    "log_text",
    "create_run",
    "set_terminated",
)


def run_in_child(work: Any) -> int:
    """Start `work` in a process of its own; gives its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)


def stop_at(client: Any, number: int, after: bool, how: int) -> None:
    """Send `how` to this process at its nth writing call, before it is made or after."""
    made = 0

    def wrap(call: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            mine = made == number
            if mine and not after:
                os.kill(os.getpid(), how)
            result = call(*arguments, **named)
            if mine and after:
                os.kill(os.getpid(), how)
            return result

        return wrapped

    for name in CALLS:
        setattr(client, name, wrap(getattr(client, name)))


def move(
    settings: Settings, model: str, version: str, number: int = 0, after: bool = False, how: int = 0
) -> None:
    client = store.connect(settings)
    if number:
        stop_at(client, number, after, how)
    history_writer.move_alias(client, model, "champion", version, settings=settings, why=f"to {version}")


def look(settings: Settings, model: str) -> None:
    client = store.connect(settings)
    record = history.read_history(client, model, settings)
    entries = [(entry.action, entry.version) for entry in record.entries]
    alias = str(dict(client.get_registered_model(model).aliases).get("champion", ""))
    told = {"problems": record.problems, "notes": record.notes, "entries": entries, "alias": alias}
    print("LOOK " + json.dumps(told))


def case(settings: Settings, model: str, number: int, after: bool, how: int) -> None:
    def make() -> None:
        client = store.connect(settings)
        client.create_registered_model(model)
        for _ in range(3):
            client.create_model_version(model, source="file:///nowhere")
        move(settings, model, "1")

    os.waitpid(run_in_child(make), 0)
    first = run_in_child(lambda: move(settings, model, "2", number, after, how))
    _, status = os.waitpid(first, os.WUNTRACED)
    began = time.monotonic()
    second = run_in_child(lambda: move(settings, model, "3"))
    _, outcome = os.waitpid(second, 0)
    seconds = time.monotonic() - began
    late = 0
    if os.WIFSTOPPED(status):
        os.kill(first, signal.SIGCONT)
        _, late = os.waitpid(first, 0)
    told = {
        "number": number,
        "after": after,
        "stopped": os.WIFSTOPPED(status),
        "killed": os.WIFSIGNALED(status),
    }
    print("CASE " + json.dumps({**told, "second": outcome, "late": late, "seconds": seconds}))
    os.waitpid(run_in_child(lambda: look(settings, model)), 0)


def main() -> None:
    home, *stops = sys.argv[1:]
    settings = Settings.from_env({"RAYMLOPS_HOME": home, "USER": "ann"})
    os.waitpid(run_in_child(lambda: store.connect(settings)), 0)
    for stop in stops:
        how = getattr(signal, f"SIG{stop[:4]}")
        case(settings, f"model {stop}", int(stop[4:].rstrip("+")), stop.endswith("+"), how)


if __name__ == "__main__":
    main()
