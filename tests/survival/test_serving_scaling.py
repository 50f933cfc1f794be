"""Replicas go to zero when nobody asks and come back when somebody does, on the fast path and as Serve comes."""

import pathlib
import time

import httpx
import pytest

from tests import toy_models
from tests.serving_process import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("options", [(), ("--plain",)], ids=["fast", "plain"])
def test_replicas_go_to_zero_and_come_back(tmp_path: pathlib.Path, options: tuple[str, ...]) -> None:
    path = toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx")
    autoscaling = {"min": 0, "max": 2, "target": 4, "up_s": 0, "down_s": 1}
    spec = {"models": {"toy": {"source": str(path)}}, "autoscaling": autoscaling, "cpus": 0.2}
    question = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
    served = Served(tmp_path, spec, *options)
    try:
        for _ in range(2):
            response = httpx.post(f"{served.url}/v2/models/toy/infer", json=question, timeout=120)
            assert response.status_code == 200, response.text
            assert response.json()["outputs"][0]["data"] == [2, 4, 6]
            assert served.replicas()
            ends = time.monotonic() + 120
            while served.replicas() and time.monotonic() < ends:
                time.sleep(0.5)
            assert not served.replicas()
    finally:
        served.stop()
