"""BentoML with ONNX Runtime; the model's path comes in BENCH_MODEL."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Mlp:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)

    @bentoml.api
    def predict(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        array = np.array(inputs[0]["data"], np.float32).reshape(inputs[0]["shape"])
        (result,) = self._session.run(None, {"x": array})
        return {"outputs": [{"name": "p", "data": result.ravel().tolist()}]}
