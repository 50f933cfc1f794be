"""A hosted graph without a server: what it counts, as the protocol's statistics and as metrics."""

import asyncio
import pathlib

import numpy as np
import pytest

from raymlops.serving.graph import host_graph, prepare_graph
from raymlops.serving.hosts import Hosted, Hosts
from raymlops.serving.statistics import FAMILIES, to_prometheus
from raymlops.settings import Settings
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec
from tests.graph_models import read_model


@pytest.fixture
def shadowed(tmp_path: pathlib.Path, settings: Settings) -> Hosted:
    for name in ("1", "2"):
        (tmp_path / f"{name}.onnx").write_bytes(read_model(name))
    text = f"""
nodes:
  champion: {{kind: model, model: {tmp_path}/1.onnx}}
  challenger: {{kind: model, model: {tmp_path}/2.onnx}}
  release: {{kind: shadow, primary: champion, mirror: challenger}}
outputs: [release]
"""
    return host_graph("release", prepare_graph(parse_document(text, GraphSpec), settings), {}, settings)


def test_nodes_and_shadows_are_metrics(shadowed: Hosted) -> None:
    async def ask() -> None:
        await shadowed.endpoint.infer({"x": np.ones((2, 3), np.float32)})
        while not shadowed.statistics.to_json()["shadows"]["release"]["compared"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    asyncio.run(ask())
    text = to_prometheus(Hosts("test", {"release": shadowed}).samples()).decode()
    labels = f'model="release",version="{shadowed.endpoint.version}"'
    assert f'raymlops_node_count{{{labels},node="champion"}} 1\n' in text
    assert f'raymlops_shadow_count{{{labels},node="release",outcome="different"}} 1\n' in text
    assert f'raymlops_shadow_count{{{labels},node="release",outcome="dropped"}} 0\n' in text
    assert f"nv_inference_count{{{labels}}} 2\n" in text
    assert "nv_inference_pending_request_count 0\n" in text


def test_every_metric_has_its_help_once(shadowed: Hosted) -> None:
    text = to_prometheus(Hosts("test", {"release": shadowed}).samples()).decode()
    for name in [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]:
        assert text.count(f"# HELP {name} {FAMILIES[name].words}\n") == 1
