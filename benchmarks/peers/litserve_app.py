"""LitServe with batching on. Usage: litserve_app.py MODEL PORT"""

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(sys.argv[1], options)

    def decode_request(self, request: dict[str, Any]) -> Any:
        return np.array(request["inputs"][0]["data"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {"x": x})[0]

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"outputs": [{"name": "p", "data": output.tolist()}]}


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=16, batch_timeout=0.001), accelerator="cpu")
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False)
