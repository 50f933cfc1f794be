"""Many models by @serve.multiplexed, as ours are measured against: multiplexed.py PORT FOLDER COUNT."""

import os
import pathlib
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

FOLDER, FIT = pathlib.Path(sys.argv[2]), int(sys.argv[3])


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=512,
    ray_actor_options={"num_cpus": 0.5},
    logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
)
class Zoo:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    @serve.multiplexed(max_num_models_per_replica=FIT)
    async def load(self, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = f"{self.folder}/{name}.onnx"
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    async def __call__(self, request: Request) -> JSONResponse:
        session = await self.load(serve.get_multiplexed_model_id())
        tensor = (await request.json())["inputs"][0]
        x = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        y = session.run(None, {"x": x})[0]
        output = {"name": "y", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}
        return JSONResponse({"model_name": "zoo", "outputs": [output]})


if __name__ == "__main__":
    ray.init(address="local", num_cpus=4, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Zoo.bind(str(FOLDER)), route_prefix="/")
    while True:
        time.sleep(1)
