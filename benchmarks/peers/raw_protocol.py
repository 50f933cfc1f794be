"""The ceiling of Python: a protocol of asyncio on uvloop with ONNX Runtime, requests of one turn of the loop in one
run, nothing checked, nothing counted. Usage: raw_protocol.py MODEL PORT"""

import asyncio
import sys

import httptools
import numpy as np
import uvloop
from onnx_answers import Answers

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


class Raw(asyncio.Protocol):
    waiting: list[tuple["Raw", np.ndarray]] = []

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if not self.body:  # somebody asks whether this runs
            self.transport.write(HEAD % (0, b""))
            return
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self.answer_all)
        self.waiting.append((self, self.answers.read(self.body)))

    def answer_all(self) -> None:
        items, self.waiting[:] = self.waiting[:], []
        result = self.answers.run(np.concatenate([array for _, array in items]))
        start = 0
        for connection, array in items:
            text = self.answers.write(result[start : start + len(array)])
            start += len(array)
            connection.transport.write(HEAD % (len(text), text))


async def main() -> None:
    answers = Answers(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(
        lambda: Raw(answers), "127.0.0.1", int(sys.argv[2])
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
