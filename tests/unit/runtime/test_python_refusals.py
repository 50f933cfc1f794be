"""Python nodes and what callers send: data that a node cannot read are the caller's to fix, faults are not told."""

import asyncio
import struct
import urllib.error
import zlib
from typing import Any

import numpy as np
import pytest

from raymlops.errors import InputError, OverloadedError
from raymlops.runtime.open_graph import run_python
from raymlops.tensors import Batch


class UnidentifiedError(OSError):
    """As Pillow's, which has no number of the system."""


REFUSALS = [
    ValueError("cannot reshape array of size 3 into shape (8,8)"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    UnidentifiedError("cannot identify image file <_io.BytesIO object at 0x7f>"),
    EOFError("the image is cut short"),
    struct.error("unpack requires a buffer of 4 bytes"),
    zlib.error("incorrect header check"),
]
FAULTS = [
    KeyError("x"),
    TypeError("no"),
    OSError(28, "No space left on device"),
    RuntimeError("no"),
    TimeoutError("another service did not answer"),
    ConnectionResetError("another service went away"),
    urllib.error.URLError("another service is not there"),
]


def run(error: Exception, waits: bool) -> None:
    class Sync:
        def run(self, batch: Batch) -> Batch:
            raise error

    class Waiting:
        async def run(self, batch: Batch) -> Batch:
            raise error

    node: Any = Waiting() if waits else Sync()
    asyncio.run(run_python(node).run({"x": np.zeros(1)}))  # type: ignore[arg-type]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_data_that_a_node_cannot_read_are_refused(error: Exception, waits: bool) -> None:
    with pytest.raises(InputError, match=f"could not process its data, {type(error).__name__}") as told:
        run(error, waits)
    assert "0x7f" not in str(told.value)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [*FAULTS, InputError("told"), OverloadedError("full")], ids=repr)
def test_any_other_exception_stays_what_it_is(error: Exception, waits: bool) -> None:
    with pytest.raises(type(error)) as told:
        run(error, waits)
    assert told.value is error
