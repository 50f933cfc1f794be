"""Answers that a client has not taken yet are seen from outside, on real sockets."""

import socket
import sys
import time

import pytest

from raymlops.serving.transport.drain import count_unread


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it")
def test_an_answer_that_is_not_read_counts_until_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            with server:
                assert count_unread({port}) == 0  # idle
                server.setblocking(False)
                sent = 0
                while True:
                    try:
                        sent += server.send(b"x" * 65536)
                    except BlockingIOError:
                        break
                assert count_unread({port}) == 1
                assert count_unread({port + 1, 0}) == 0
                while sent:
                    sent -= len(client.recv(2**20))
                ends = time.monotonic() + 10
                while count_unread({port}) and time.monotonic() < ends:
                    time.sleep(0.01)
                assert count_unread({port}) == 0
