import builtins
import io
import json
import logging
import sys
import traceback

import pytest
from ray._common.formatters import JSONFormatter
from ray.serve._private import logging_utils

from raymlops.serving.transport.traceback_text import TracebackFormatter, repair_print


def fail() -> logging.LogRecord:
    """A record with a traceback of two exceptions."""
    try:
        try:
            raise ValueError("inner 'quoted'\nsecond line")
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        return logging.LogRecord("x", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())


def assert_is_text(told: str) -> None:
    lines = told.splitlines()
    assert lines.count("Traceback (most recent call last):") == 2
    assert {"ValueError: inner 'quoted'", "second line", "RuntimeError: outer"} <= set(lines)
    assert not any(line.startswith("(") or line.endswith(",)") for line in lines)


def test_the_print_of_serve_writes_tuples_to_files() -> None:
    """Else `repair_print` may go."""
    file = io.StringIO()
    logging_utils.redirected_print("a", file=file)
    assert file.getvalue() == "('a',)\n"


def test_tracebacks_of_our_log_are_text_whatever_print_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "print", logging_utils.redirected_print)
    assert_is_text(TracebackFormatter().format(fail()))


def test_tracebacks_of_serves_log_are_text_after_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "print", logging_utils.redirected_print)
    repair_print()
    assert_is_text(json.loads(JSONFormatter().format(fail()))["exc_text"])
    assert_is_text(logging_utils.ServeFormatter("replica", "1").format(fail()))
    file = io.StringIO()
    traceback.print_exception(fail().exc_info[1], file=file)  # type: ignore[index]
    assert_is_text(file.getvalue())


def test_what_a_replica_prints_goes_where_it_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "print", logging_utils.redirected_print)
    repair_print()
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    serve = logging.getLogger("ray.serve")
    monkeypatch.setattr(serve, "handlers", [handler])
    monkeypatch.setattr(serve, "propagate", False)
    monkeypatch.setattr(serve, "level", logging.INFO)
    print("a", 1)
    print("b", file=sys.stderr)
    print()
    assert [record.getMessage() for record in logged] == ["a 1\n", "b\n", "\n"]
    assert {record.pathname for record in logged} == {__file__}
    file = io.StringIO()
    print("a", "b", sep="-", end="!", file=file)
    print(sep=None, end=None, file=file)
    assert file.getvalue() == "a-b!\n"


def test_a_print_that_is_not_of_serve_stays() -> None:
    before = builtins.print
    repair_print()
    assert builtins.print is before
