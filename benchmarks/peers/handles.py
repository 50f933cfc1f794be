"""A chain by Ray Serve's own handles, to measure graphs against: python handles.py PORT MODEL ..."""

import os
import sys
import time

from raymlops.serving.fastpath.ray_serve_env import choose_environment

os.environ.update(choose_environment())

import numpy as np
import onnxruntime
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import JSONResponse

OPTIONS = {
    "max_ongoing_requests": 512,
    "logging_config": LoggingConfig(enable_access_log=False, log_level="WARNING"),
}


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, **OPTIONS)
class Model:
    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    async def run(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x})[0]


@serve.deployment(ray_actor_options={"num_cpus": 0.5}, **OPTIONS)
class Front:
    def __init__(self, first: object, second: object, third: object) -> None:
        self.models = (first, second, third)

    async def __call__(self, request: Request) -> JSONResponse:
        tensor = (await request.json())["inputs"][0]
        values = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        for model in self.models:
            values = await model.run.remote(values)
        output = {"name": "y", "datatype": "FP32", "shape": list(values.shape)}
        output["data"] = values.ravel().tolist()
        return JSONResponse({"model_name": "chain", "outputs": [output]})


if __name__ == "__main__":
    ray.init(address="local", num_cpus=4, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    models = [Model.options(name=f"m{i}").bind(path) for i, path in enumerate(sys.argv[2:])]
    serve.run(Front.bind(*models), route_prefix="/")
    while True:
        time.sleep(1)
