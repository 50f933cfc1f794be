"""The ceiling of a server in Rust: Granian's RSGI and ONNX Runtime, nothing checked, nothing counted. BENCH_MODEL names
the model."""

import os
from typing import Any

from onnx_answers import Answers

ANSWERS = Answers(os.environ["BENCH_MODEL"])
HEADERS = [("content-type", "application/json")]


class App:
    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        array = ANSWERS.read(await protocol())
        protocol.response_bytes(200, HEADERS, ANSWERS.write(ANSWERS.run(array)))


app = App()
