"""Opens exported programs of torch (`torch.export.save`, .pt2)."""

import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raymlops.errors import ArtifactError, SpecError, shorten
from raymlops.tensors import count_rows
from raymlops.training.saved_models import OpenedModel, Request
from raymlops.training.saved_models.answers import read_answers, to_opened
from raymlops.training.saved_models.exported_program_check import copy_safely
from raymlops.training.saved_models.tensor_inputs import InputColumns, TensorInput, match_columns
from raymlops.training.torch_export import export_program

_AT_ONCE = 1024  # rows


def open_model(request: Request) -> OpenedModel:
    """See `Reader`."""
    if request.sample is None:
        raise SpecError(
            "A file of torch does not say what its columns are; give --data with rows as it was trained on them"
        )
    program = _load(request)
    inputs = _inputs_of(program)
    columns = match_columns(inputs, request.sample)
    rows = columns.read(request.sample)
    _set_example(program, columns, rows)
    own = _predict(program, columns, rows)
    model = export_program(program, [one.name for one in inputs])
    answers = read_answers(model, own, request.classes)
    return to_opened(
        f"torch {torch.__version__.partition('+')[0]}",
        f"exported program of {len(program.graph.nodes)} nodes",
        columns,
        rows,
        answers,
    )


def _load(request: Request) -> torch.export.ExportedProgram:
    file = request.file
    if not request.trust:
        file = pathlib.Path(file.parent / "checked.pt2")
        copy_safely(request.file, file)
    torch.set_num_threads(1)
    with torch.device("cpu"):
        return torch.export.load(str(file))


def _inputs_of(program: torch.export.ExportedProgram) -> tuple[TensorInput, ...]:
    """Raises ArtifactError for inputs whose number of rows is fixed, or that are no tensors."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    found: list[TensorInput] = []
    for name in program.graph_signature.user_inputs:
        value = values.get(name)
        if not isinstance(value, torch.Tensor) or not value.dim():
            raise ArtifactError(
                f"Its input {shorten(str(name))!r} is no tensor of rows; export it with tensors alone"
            )
        rows, *shape = value.shape
        if isinstance(rows, int):
            raise ArtifactError(
                f"Its input {name!r} has a fixed number of rows, {rows}; export it with dynamic_shapes: "
                "torch.export.export(model, example, dynamic_shapes=({0: torch.export.Dim('batch')},))"
            )
        sizes = tuple(size if isinstance(size, int) else -1 for size in shape)
        found.append(TensorInput(str(name), sizes, str(value.dtype).removeprefix("torch.")))
    return tuple(found)


def _predict(program: torch.export.ExportedProgram, columns: InputColumns, rows: Any) -> npt.NDArray[Any]:
    """Its own answers, in the order of the rows."""
    module, count, parts = program.module(), count_rows(rows), []
    with torch.inference_mode():
        for start in range(0, count, _AT_ONCE):
            part = {name: values[start : start + _AT_ONCE] for name, values in rows.items()}
            places, names = _arguments_of(program, columns, part)
            answer = module(*places, **names)
            if isinstance(answer, tuple | list) and len(answer) == 1:
                answer = answer[0]
            if not isinstance(answer, torch.Tensor) or not answer.dim() or len(answer) != count_rows(part):
                raise ArtifactError(
                    f"It answers {type(answer).__name__}; converted are programs with one tensor of answers, a row for "
                    "each row"
                )
            parts.append(answer.float().numpy())
    return np.concatenate(parts)


def _set_example(program: torch.export.ExportedProgram, columns: InputColumns, rows: Any) -> None:
    """In place of those of the file, which were not read: torch binds the names of arguments by
    them."""
    program.example_inputs = _arguments_of(
        program, columns, {name: values[:2] for name, values in rows.items()}
    )


def _arguments_of(
    program: torch.export.ExportedProgram, columns: InputColumns, rows: Any
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Those given by place, and those by name. Raises ArtifactError if some are nested."""
    tensors = [torch.from_numpy(np.ascontiguousarray(one)) for one in columns.join(rows).values()]
    places, names = program.call_spec.in_spec.children()
    if any(not child.is_leaf() for child in (*places.children(), *names.children())):
        raise ArtifactError("Its inputs are nested; export it with one tensor for each argument")
    given = places.num_leaves
    return tuple(tensors[:given]), dict(zip(names.context or (), tensors[given:], strict=True))
