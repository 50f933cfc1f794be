import asyncio
import pathlib
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families as parse

from raymlops.errors import ArtifactError
from raymlops.models.session import Session, open_session
from raymlops.runtime.model_files import LocalFiles
from raymlops.serving.endpoints import lazy_endpoint
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.endpoints.model_folder import Examiner, Opener, read_entries
from raymlops.specs.serving import ManyModels
from raymlops.tensors import Batch
from tests import toy_models
from tests.graph_models import make_mlp


def make_host(folder: pathlib.Path, count: int = 2) -> LazyModels:
    for i in range(count):
        toy_models.save(make_mlp(i), folder / f"m{i}.onnx")
    return LazyModels(ManyModels(folder=str(folder)))


def ask(host: LazyModels, name: str) -> Batch:
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
    hosts = Hosts("test", host.hosted, repository=host)
    text, _ = asyncio.run(hosts.render_metrics(""))
    counted = {sample.name: sample.value for family in parse(text.decode()) for sample in family.samples}
    assert counted["raymlops_many_loads_total"] == 2
    assert counted["raymlops_many_hits_total"] == 1
    assert counted["raymlops_many_bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_models_of_one_structure_answer_as_they_do_alone(tmp_path: pathlib.Path) -> None:
    make_host(tmp_path, count=3)
    toy_models.save(make_mlp(8, width=5), tmp_path / "other.onnx")
    host = LazyModels(ManyModels(folder=str(tmp_path)))
    x = {"x": np.ones((1, 20), np.float32)}
    for name in ("m0", "m1", "m2", "other", "m0"):
        alone = open_session(tmp_path / f"{name}.onnx").infer(x)
        np.testing.assert_allclose(ask(host, name)["y"], alone["y"], atol=1e-5)


@pytest.mark.parametrize("kind", ["long", "of unknown length"])
def test_each_request_to_a_model_that_is_not_short_runs_it_once(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = 0
    infer = Session.infer

    def count(self: Session, *args: Any, **named: Any) -> Batch:
        nonlocal runs
        runs += 1
        return infer(self, *args, **named)

    model = toy_models.doubler() if kind == "long" else toy_models.countdown()
    batch = {"x": np.ones((1, 3), np.float32) if kind == "long" else np.array([3])}
    monkeypatch.setattr(lazy_endpoint, "INLINE_S", 0.0 if kind == "long" else 60.0)
    toy_models.save(model, tmp_path / "m.onnx")
    endpoint = LazyModels(ManyModels(folder=str(tmp_path))).hosted["m"].endpoint

    async def ask() -> None:
        for _ in range(5):
            await endpoint.infer(batch)

    monkeypatch.setattr(Session, "infer", count)
    asyncio.run(ask())
    assert runs == 5 + 1  # the first request runs it once more, for the first run takes longer


def test_a_structure_that_cannot_be_proven_is_opened_one_by_one(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    picky = toy_models.make(  # takes no more than two rows, of which the proof sends four
        [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("Mul", ["r", "by"], ["y"])],
        [toy_models.value("x", TensorProto.FLOAT, "rows", 2)],
        [toy_models.value("y", TensorProto.FLOAT, 1, 4)],
        [
            numpy_helper.from_array(np.array([1, 4]), "shape"),
            numpy_helper.from_array(np.full(4, 3, np.float32), "by"),
        ],
    )
    for name in ("a", "b"):
        toy_models.save(picky, tmp_path / f"{name}.onnx")
    host = LazyModels(ManyModels(folder=str(tmp_path)))
    for name in ("a", "b", "a"):
        answer = asyncio.run(host.hosted[name].endpoint.infer({"x": np.ones((2, 2), np.float32)}))
        assert answer["y"].tolist() == [[3, 3, 3, 3]]
    assert "opened one by one" in caplog.text


def test_only_models_of_one_structure_are_opened_by_their_weights(tmp_path: pathlib.Path) -> None:
    make_host(tmp_path, count=2)
    toy_models.save(make_mlp(8, width=5), tmp_path / "other.onnx")
    files = LocalFiles(tmp_path)
    examiner, entries = Examiner(files), read_entries(files.list()).models
    opener = Opener({name: examiner.examine(entry) for name, entry in entries.items()})
    assert {name: sorted(opener.open(name).weights) for name in ("m0", "m1", "other")} == {
        "m0": ["a", "b"],
        "m1": ["a", "b"],
        "other": [],
    }
