"""Exported programs of torch, and archives: what is read of them, and what is refused before torch opens it."""

import io
import json
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymlops.errors import ArtifactError, DataError, SpecError, UserError
from raymlops.training.saved_models import FOLDERS, FORMATS, OpenedModel, Request
from raymlops.training.saved_models.archives import open_archive
from raymlops.training.saved_models.exported_program import open_model
from raymlops.training.saved_models.exported_program_check import copy_safely
from raymlops.training.saved_models.process import require_packages

SAMPLE = pa.table({name: np.random.default_rng(0).normal(size=40) for name in "abc"})
ROWS = {0: torch.export.Dim("rows")}


class Classes(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layer(values), dim=-1)


class Amounts(torch.nn.Module):
    """Of numbers by place and a category by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = torch.nn.Embedding(5, 2), torch.nn.Linear(4, 1)

    def forward(self, numbers: torch.Tensor, *, shop: torch.Tensor) -> torch.Tensor:
        return (self.layer(torch.cat([numbers, self.table(shop)], dim=1)) * 100 + 5000).squeeze(1)  # type: ignore[no-any-return]


class Images(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 2, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.layer(image).mean(dim=(2, 3)), dim=1)


class Logits(Classes):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values)  # type: ignore[no-any-return]


def save(
    module: torch.nn.Module, file: pathlib.Path, *values: torch.Tensor, rows: Any = ROWS, **named: Any
) -> pathlib.Path:
    torch.manual_seed(0)
    shapes: Any = None
    if rows is not None:
        shapes = {"numbers": rows, "shop": rows} if named else (rows,)
    program = torch.export.export(module.eval(), values, named, dynamic_shapes=shapes)
    torch.export.save(program, file)
    return file


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save(Classes(), tmp_path_factory.mktemp("classes") / "m.pt2", torch.zeros(2, 3))


def change(
    file: pathlib.Path, folder: pathlib.Path, parts: dict[str, Callable[[bytes], bytes | None]]
) -> pathlib.Path:
    """A copy in which some files are other ones, or are added."""
    changed = folder / "changed.pt2"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        names = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name in {**names, **parts}:
            content = parts.get(name, lambda held: held)(names.get(name, b""))
            if content is not None:
                new.writestr(f"{top}/{name}", content)
    return changed


def test_programs_of_several_kinds_of_inputs_and_answers_are_read(
    classes: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    found = open_model(Request(classes, SAMPLE))
    assert [column.name for column in found.features.raw] == ["a", "b", "c"]
    assert found.features.target.classes == (0, 1, 2, 3)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)

    amounts = save(Amounts(), tmp_path / "a.pt2", torch.zeros(2, 2), shop=torch.zeros(2, dtype=torch.int64))
    sample = SAMPLE.rename_columns(["x", "y", "z"]).append_column("shop", pa.array(np.arange(40) % 5))
    with pytest.raises(DataError, match=r"3 columns where 2 are needed"):
        open_model(Request(amounts, sample))
    found = open_model(Request(amounts, sample.drop_columns(["z"])))
    assert {column.name: column.type for column in found.features.raw} == {
        "x": "number",
        "y": "number",
        "shop": "integer",
    }
    assert (found.features.target.task, found.scores.shape) == ("regression", (40,))

    folder = tmp_path / "saved"
    folder.mkdir()
    found.save(folder)
    again = OpenedModel.load(folder, json.loads(json.dumps(found.to_json())))
    assert again.features == found.features
    assert {name: values.dtype for name, values in again.rows.items()} == {"x": "f4", "y": "f4", "shop": "i8"}

    images = save(Images(), tmp_path / "i.pt2", torch.zeros(2, 1, 6, 6))
    found = open_model(Request(images, pa.table({"image": np.random.rand(5, 1, 6, 6).tolist()})))
    assert found.features.raw[0].shape == (1, 6, 6)
    assert found.features.target.task == "binary"
    with pytest.raises(DataError, match=r"arrays of shape \(36,\); the model takes \(1, 6, 6\)"):
        open_model(Request(images, pa.table({"image": np.random.rand(5, 36).tolist()})))


class Doubles(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.double().sum(dim=1)


class Branches(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = torch.cond(values.sum() > 0, lambda one: one * 2, lambda one: one * 3, (values,))
        return found[:, 0]  # type: ignore[no-any-return]


def test_answers_in_float64_are_taken_and_branches_are_not(tmp_path: pathlib.Path) -> None:
    found = open_model(Request(save(Doubles(), tmp_path / "d.pt2", torch.zeros(2, 3)), SAMPLE))
    assert found.core.graph.output[0].type.tensor_type.elem_type == 1
    with pytest.raises(ArtifactError, match="It has If, which run a graph of their own"):
        open_model(Request(save(Branches(), tmp_path / "b.pt2", torch.zeros(2, 3)), SAMPLE))


def test_what_a_program_lacks_is_said(classes: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError, match="give --data"):
        open_model(Request(classes))
    texts = pa.table({"a": ["x"], "b": [1.0], "c": [2.0]})
    with pytest.raises(DataError, match="'a' of the sample is string"):
        open_model(Request(classes, texts))
    fixed = save(Classes(), tmp_path / "f.pt2", torch.zeros(2, 3), rows=None)
    with pytest.raises(ArtifactError, match=r"fixed number of rows, 2; export it with dynamic_shapes"):
        open_model(Request(fixed, SAMPLE))
    logits = save(Logits(), tmp_path / "l.pt2", torch.zeros(2, 3))
    with pytest.raises(ArtifactError, match="If they are logits of classes, give --classes"):
        open_model(Request(logits, SAMPLE))
    found = open_model(Request(logits, SAMPLE, classes=("p", "q", "r", "s")))
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('it ran')",))


def edit(*path: Any, value: Any) -> dict[str, Callable[[bytes], bytes | None]]:
    """Sets a place in the model."""

    def put(content: bytes) -> bytes:
        model = json.loads(content)
        held = model["graph_module"]
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = value
        return json.dumps(model).encode()

    return {"models/model.json": put}


def pickled(content: bytes) -> bytes:
    held = json.loads(content)
    held["config"]["layer.weight"]["use_pickle"] = True
    return json.dumps(held).encode()


GRAPH, CALLS = "graph", "module_call_graph"
SPEC = '[1, {"type": "builtins.dict", "context": "{\\"__enum__\\": 1, \\"fqn\\": \\"os:x\\"}", "children_spec": []}]'
SIZE = {"as_expr": {"expr_str": "__import__('os').system('id')", "hint": {"as_int": 2}}}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (edit(GRAPH, "nodes", 0, "target", value="torch.os.system"), "It calls 'torch.os.system'"),
        (edit(GRAPH, "nodes", 0, "target", value="torch.ops.load_library"), "It calls"),
        (edit(GRAPH, "nodes", 0, "target", value="torch.ops.aten.from_file.default"), "It calls"),
        (edit(GRAPH, "nodes", 0, "target", value="_operator.methodcaller"), "It calls"),
        (edit(GRAPH, "inputs", 0, "as_tensor", "name", value="x=print()):#"), "which torch would run as code"),
        (edit(GRAPH, "tensor_values", "values", "sizes", 0, value=SIZE), "is no formula of sizes"),
        (edit(CALLS, 0, "signature", "in_spec", value=SPEC), "The structure of its inputs has"),
        (edit(CALLS, 0, "signature", "forward_arg_names", value=["a, b=print()"]), "would run as code"),
        ({"data/weights/model_weights_config.json": pickled}, "is a pickle of an own class"),
        ({"data/weights/model.pt": lambda held: pickle.dumps(Evil())}, "is none that torch.export.save writes"),
        ({"data/constants/opaque_obj_0": lambda held: pickle.dumps(Evil())}, "is none that torch.export.save"),
        ({"archive_format": lambda held: b"x"}, "It is no whole exported program"),
        ({"models/model.json": lambda held: None}, "lacks models/model.json"),
    ],
)  # fmt: skip
def test_what_torch_would_run_is_refused_before_torch_opens_it(
    parts: Any, reason: str, classes: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ArtifactError) as caught:
        copy_safely(change(classes, tmp_path, parts), tmp_path / "copy.pt2")
    assert reason in str(caught.value)


def test_pickles_that_are_not_needed_are_left_out(classes: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = io.BytesIO()
    torch.save(Evil(), content)
    extra = {
        "data/sample_inputs/model.pt": lambda held: content.getvalue(),
        "data/aotinductor/model/evil.so": lambda held: b"\x7fELF",
        **edit(GRAPH, "nodes", 0, "metadata", value={"custom": "x", "source_fn_stack": "a,torch.os.system"}),
    }
    found = open_model(Request(change(classes, tmp_path, extra), SAMPLE))
    assert found.features.target.task == "multiclass"


def test_broken_archives_and_those_that_unpack_to_much_are_refused(
    classes: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def complaint(content: bytes) -> str:
        file = tmp_path / "m.pt2"
        file.write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            copy_safely(file, tmp_path / "copy.pt2")
        return str(caught.value)

    whole = classes.read_bytes()
    for broken in (b"", whole[:-40], whole[: len(whole) // 2], b"not a zip archive", b"\x80\x04K\x01."):
        assert re.match(
            "It is not a whole zip archive, as files with .pt2 are|It is no whole", complaint(broken)
        )
    flipped = whole.replace(b'"as_tensor"', b'"as_tEnsor"', 1)
    assert "Bad CRC" in complaint(flipped)
    content = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, content)
    assert "It is no whole exported program" in complaint(content.getvalue())

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/models/model.json", b"0" * 10**6)
    (tmp_path / "bomb.keras").write_bytes(bomb.getvalue())
    with pytest.raises(
        ArtifactError, match=r"1 files have 1,000,000 bytes when they are unpacked; expected 999,999"
    ):
        open_archive(tmp_path / "bomb.keras", 999_999).__enter__()
    for name in ("../evil", "/etc/passwd", "a/../../b", "C:evil", "a\\b"):
        slip = io.BytesIO()
        with zipfile.ZipFile(slip, "w") as archive:
            archive.writestr(name, b"")
        assert "which lies outside the archive" in complaint(slip.getvalue())


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require_packages(FORMATS[".pt2"])
    with pytest.raises(UserError, match=r"keras, not installed here; run: pip install 'raymlops\[keras\]'"):
        require_packages(FORMATS[".keras"])
    with pytest.raises(UserError, match=r"tensorflow, tf2onnx, not installed here; .*\[tf\]"):
        require_packages(FOLDERS["saved_model.pb"])
