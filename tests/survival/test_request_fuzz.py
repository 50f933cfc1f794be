"""A million requests, most of them wrong, to a data plane, and thousands through HAProxy to replicas: none gets a wrong
answer, none waits for ever, none is answered by a fault. See `tests/fuzzing.py`."""

import asyncio
import pathlib
from typing import Any

import psutil
import pytest

from tests import toy_models
from tests.fuzz_server import MODELS
from tests.fuzzing import Tally, fuzz, fuzzed_server
from tests.serving_process import Served

REST, GRPC = 900_000, 100_000
SECONDS = 3_000


def tell(tally: Tally) -> None:
    print(
        f"{tally.sent} requests, {tally.compared} answers compared, {tally.overloaded} told to come back, {tally.late} "
        f"late as they asked, {tally.cut} cut; the latest probe took {tally.slowest_probe_s:.2f} s: "
        f"{dict(tally.statuses)}"
    )


@pytest.mark.timeout(SECONDS + 600)
def test_a_million_requests_get_no_wrong_answer_and_no_fault() -> None:
    with fuzzed_server() as (process, ports):
        tally = asyncio.run(fuzz(ports, REST, GRPC, seconds=SECONDS, seed=12))
        assert process.poll() is None
        memory = psutil.Process(process.pid).memory_info().rss
    tell(tally)
    tally.check()
    assert tally.sent >= REST + GRPC
    assert memory < 1_500_000_000


@pytest.mark.timeout(900)
def test_what_comes_through_haproxy_is_answered_as_well(tmp_path: pathlib.Path) -> None:
    models = {
        name: {"source": str(toy_models.save(getattr(toy_models, name)(), tmp_path / f"{name}.onnx"))}
        for name in MODELS
    }
    limits = {
        "body_mb": 2,
        "json_elements": 100_000,
        "rows": 20_000,
        "elements": 2**20,
        "answer_mb": 4,
        "receive_s": 15,
    }
    spec: dict[str, Any] = {"models": models, "grpc_port": 1, "replicas": 2, "cpus": 0.2, "limits": limits}
    served = Served(tmp_path, spec)
    try:
        tally = asyncio.run(fuzz((served.port, served.grpc_port), 30_000, 3_000, seconds=600, seed=13))
        replicas = {process.pid for process in served.replicas()}
    finally:
        served.stop()
    tell(tally)
    tally.check()
    assert tally.sent >= 30_000
    assert len(replicas) == 2
