import asyncio
import pathlib

import numpy as np
import pytest

from raymlops.errors import ArtifactError
from raymlops.serving.many import ManyHost
from raymlops.specs.serving import ManyModels
from raymlops.tensors import Batch
from tests import toy_models
from tests.graph_models import make_mlp


def make_host(folder: pathlib.Path, count: int = 2) -> ManyHost:
    for i in range(count):
        toy_models.save(make_mlp(i), folder / f"m{i}.onnx")
    return ManyHost(ManyModels(folder=str(folder)))


def ask(host: ManyHost, name: str) -> Batch:
    return asyncio.run(host.hosted[name].endpoint.infer({"x": np.ones((1, 20), np.float32)}))


def test_a_file_that_was_exchanged_while_its_replica_runs_is_refused(tmp_path: pathlib.Path) -> None:
    host = make_host(tmp_path)
    toy_models.save(make_mlp(7), tmp_path / "m0.onnx")
    with pytest.raises(
        ArtifactError, match=r"'m0\.onnx' has changed since this replica started; deploy again"
    ):
        ask(host, "m0")
    ask(host, "m1")


def test_a_file_that_was_written_anew_with_the_same_bytes_is_the_same_model(tmp_path: pathlib.Path) -> None:
    host = make_host(tmp_path)
    data = (tmp_path / "m0.onnx").read_bytes()
    (tmp_path / "m0.onnx").unlink()
    (tmp_path / "m0.onnx").write_bytes(data)
    assert ask(host, "m0")["y"].shape == (1, 20)


def test_what_the_cache_counts_are_metrics(tmp_path: pathlib.Path) -> None:
    host = make_host(tmp_path)
    for name in ("m0", "m0", "m1"):
        ask(host, name)
    counted = {metric: number for metric, _, number in host.samples()}
    assert counted["raymlops_many_loads"] == 2
    assert counted["raymlops_many_hits"] == 1
    assert counted["raymlops_many_bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
