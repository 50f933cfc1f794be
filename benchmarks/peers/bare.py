"""The ceiling: one uvicorn process and ONNX Runtime, nothing checked, nothing counted. Usage: bare.py MODEL
PORT"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
import uvicorn


def make_app(path: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name

    async def app(scope: Any, receive: Any, send: Any) -> None:
        parts = []
        more = True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        length = dict(scope["headers"]).get(b"inference-header-content-length")
        entry = json.loads(body[: int(length)] if length else body)["inputs"][0]
        if length:
            array = np.frombuffer(body, "<f4", offset=int(length)).reshape(entry["shape"])
        else:
            array = np.array(entry["data"], np.float32).reshape(entry["shape"])
        (result,) = session.run(None, {name: array})
        output = {
            "name": "p",
            "shape": list(result.shape),
            "datatype": "FP32",
            "data": result.ravel().tolist(),
        }
        answer = json.dumps({"outputs": [output]}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


if __name__ == "__main__":
    uvicorn.run(
        make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning", access_log=False, lifespan="off"
    )
