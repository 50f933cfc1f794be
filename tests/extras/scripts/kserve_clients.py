"""Calls every public method of KServe's clients against an endpoint, and prints which was refused with what.

    python kserve_clients.py '{"http": URL, "grpc": HOST:PORT, "model": NAME, "headers": {NAME: VALUE}}'

The model doubles `x`, rows of 3 floats. Runs in an environment of its own, see ../environments.py.
"""

import asyncio
import inspect
import json
import logging
import sys
from typing import Any

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig
from kserve.utils.inference_client_factory import InferenceClientFactory

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def make_request(model: str, binary: bool) -> InferRequest:
    tensor = InferInput("x", [2, 3], "FP32")
    tensor.set_data_from_numpy(X, binary_data=binary)
    return InferRequest(model, [tensor], request_id="7")


def check_answer(answer: Any) -> None:
    np.testing.assert_array_equal(answer.outputs[0].as_numpy().reshape(2, 3), 2 * X)


def list_methods(client: Any) -> list[str]:
    found = inspect.getmembers(type(client), inspect.isfunction)
    return [name for name, _ in found if not name.startswith("_") and name != "close"]


async def use_grpc(client: Any, name: str, target: dict[str, Any]) -> None:
    given: dict[str, Any] = {"headers": tuple(target["headers"].items())}
    if name == "infer":
        for binary in (True, False):
            check_answer(await client.infer(make_request(target["model"], binary), **given))
    elif name == "is_model_ready":
        assert await client.is_model_ready(target["model"], **given) is True
    else:
        assert await getattr(client, name)(**given) is True


async def use_rest(client: Any, protocol: str, name: str, target: dict[str, Any]) -> None:
    # Headers of the client's own are added to what is given.
    url, model, given = target["http"], target["model"], {"headers": dict(target["headers"])}
    rows = {"instances": X.tolist()}
    if name == "infer" and protocol == "v1":
        answer = await client.infer(url, rows, model_name=model, **given)
        np.testing.assert_array_equal(np.array(answer["predictions"], np.float32).reshape(2, 3), 2 * X)
    elif name == "infer":
        for binary in (True, False):
            given = {"headers": dict(target["headers"])}
            check_answer(await client.infer(url, make_request(model, binary), model_name=model, **given))
        path = f"{url}/v2/models/{model}/infer"
        body, _ = make_request(model, False).to_rest()
        answer = await client.infer(path, body, is_graph_endpoint=True, headers=dict(target["headers"]))
        assert answer["outputs"][0]["data"] == (2 * X).ravel().tolist()
    elif name == "explain":
        await client.explain(url, model, rows, **given)
    elif name == "is_model_ready":
        assert await client.is_model_ready(url, model, **given) is True
        if protocol == "v2":  # v1 raises
            assert await client.is_model_ready(url, "nobody", **given) is False
    else:
        assert await getattr(client, name)(url, **given) is True


async def call_all(target: dict[str, Any]) -> dict[str, str]:
    factory = InferenceClientFactory()
    rest = {protocol: factory.get_rest_client(RESTConfig(protocol=protocol)) for protocol in ("v1", "v2")}
    remote = factory.get_grpc_client(target["grpc"])
    assert isinstance(remote, InferenceGRPCClient)
    assert all(isinstance(client, InferenceRESTClient) for client in rest.values())
    told = {}
    for name in list_methods(remote):
        told[f"grpc.{name}"] = await attempt(use_grpc(remote, name, target))
    for protocol, client in rest.items():
        for name in list_methods(client):
            told[f"{protocol}.{name}"] = await attempt(use_rest(client, protocol, name, target))
    await factory.close()
    return told


async def attempt(call: Any) -> str:
    try:
        await call
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # it logs what it raises
    print(json.dumps(asyncio.run(call_all(json.loads(sys.argv[1])))))
