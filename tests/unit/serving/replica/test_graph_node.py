"""What a caller of a separate node learns when the call is given up."""

import asyncio
from typing import Any

import numpy as np
import pytest

from raymlops.errors import ProcessEndedError
from raymlops.serving.replica.graph_node import call_node


class Handle:
    """Gives what Serve's handle gives: something to wait for."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def options(self, **options: Any) -> "Handle":
        return self

    def remote(self, *arguments: Any) -> Any:
        return self._answer()


async def ask(handle: Handle) -> Any:
    return await call_node(handle).run({"x": np.ones((1, 1), np.float32)})


def test_a_call_that_serve_gives_up_is_an_error_and_no_cancelled_request() -> None:
    async def given_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ProcessEndedError, match="send it again"):
        asyncio.run(ask(Handle(given_up)))


def test_a_request_that_is_given_up_itself_stays_cancelled() -> None:
    async def wait() -> None:
        await asyncio.sleep(60)

    async def give_up() -> None:
        task = asyncio.create_task(ask(Handle(wait)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
