"""Opens SavedModels of TensorFlow 2 (`tf.saved_model.save`, `model.export`): the signature that is served. TensorFlow
runs functions of a SavedModel while it loads, so their operations are listed before."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import ArtifactError, SpecError, shorten
from raymlops.tensors import count_rows
from raymlops.training import tensorflow_export
from raymlops.training.saved_models import OpenedModel, Request
from raymlops.training.saved_models.answers import read_answers, to_opened
from raymlops.training.saved_models.tensor_inputs import InputColumns, TensorInput, match_columns

GRAPH_FILE = "saved_model.pb"
_SIGNATURE = "serving_default"
_AT_ONCE = 1024  # rows
_PLAIN = frozenset(
    ("NoOp", "Placeholder", "PlaceholderWithDefault", "Identity", "IdentityN", "Const", "PartitionedCall",
     "StatefulPartitionedCall", "VarHandleOp", "ReadVariableOp", "AssignVariableOp", "VarIsInitializedOp",
     "DisableCopyOnRead", "DestroyResourceOp", "ResourceGather", "HashTableV2", "MutableHashTableV2",
     "LookupTableImportV2", "LookupTableFindV2", "LookupTableSizeV2", "If", "StatelessIf", "While", "StatelessWhile",
     "EnsureShape", "StopGradient", "PreventGradient", "Assert", "Erfc", "BroadcastArgs", "StringFormat")
)  # fmt: skip
"""Operations that neither touch files nor run other code, beside those that tf2onnx converts."""
_TOUCHING = re.compile(
    r"File|Save|Restore|Checkpoint|Dataset|Iterator|Reader|Summary|Event|PyFunc|Print|Custom|Socket"
)
"""Names of operations that read or write files, or run code."""


def open_model(request: Request) -> OpenedModel:
    """See `Reader`."""
    if request.sample is None:
        raise SpecError(
            "A SavedModel does not say what its columns are; give --data with rows as it was trained on them"
        )
    if not request.trust:
        _check_operations(request.file / GRAPH_FILE)
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tensorflow.saved_model.load(str(request.file))
    function = _find_signature(loaded.signatures)
    inputs = _inputs_of(function)
    columns = match_columns(inputs, request.sample)
    rows = columns.read(request.sample)
    own = _predict(function, columns, rows)
    core = tensorflow_export.export_function(function, [one.name for one in inputs])
    answers = read_answers(core, own, request.classes)
    return to_opened(
        f"tensorflow {tensorflow.__version__}",
        f"SavedModel with {len(loaded.signatures)} signatures",
        columns,
        rows,
        answers,
    )


def _check_operations(file: pathlib.Path) -> None:
    """Raises ArtifactError for operations that may do more than calculate."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    held = saved_model_pb2.SavedModel()
    try:
        held.ParseFromString(file.read_bytes())
    except DecodeError:
        raise ArtifactError(f"Its {GRAPH_FILE} is no whole SavedModel; save or copy it again") from None
    graphs = [graph for graph in held.meta_graphs if graph.HasField("object_graph_def")]
    if len(graphs) != 1:
        raise ArtifactError(
            "It is no SavedModel of TensorFlow 2 with one graph; load it with TensorFlow, and save it with "
            "tf.saved_model.save"
        )
    known = _PLAIN | _converted_operations()
    found = {name for name in _operations_of(graphs[0]) if name not in known}
    touching = sorted(name for name in found if _TOUCHING.search(name))
    if touching:
        raise ArtifactError(
            f"It has operations that read or write files, or run code: {shorten(', '.join(touching))}. If you trust "
            "it, convert it with --trust"
        )
    if found:
        raise ArtifactError(
            f"It has operations for which ONNX has nothing: {shorten(', '.join(sorted(found)))}. Leave such steps "
            "out of the model; --trust tries it nevertheless"
        )


def _converted_operations() -> set[str]:
    from tf2onnx import convert, handler  # the first registers them

    assert convert

    opsets = handler.tf_op.get_opsets()
    return {name for versions in opsets.values() for version in versions for name in version}


def _operations_of(graph: Any) -> Iterator[str]:
    """Those of all functions that are loaded, and of what they call. Those that save and restore variables are not
    among them: TensorFlow does that itself."""
    library = {function.signature.name: function for function in graph.graph_def.library.function}
    waiting, seen = list(graph.object_graph_def.concrete_functions), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        for node in library[name].node_def:
            yield node.op
            waiting += [node.op] if node.op in library else []
            for value in node.attr.values():
                waiting += [value.func.name, *(one.name for one in value.list.func)]


def _find_signature(signatures: Mapping[str, Any]) -> Any:
    if _SIGNATURE in signatures:
        return signatures[_SIGNATURE]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise ArtifactError(
        f"It has no signature {_SIGNATURE!r} ({shorten(', '.join(signatures) or 'none')}); save it with signatures="
    )


def _inputs_of(function: Any) -> tuple[TensorInput, ...]:
    """In the order of its tensors, which is that of their names."""
    specs = function.structured_input_signature[1]
    found = []
    for name in sorted(specs):
        shape = specs[name].shape
        if shape.rank is None or shape.rank < 1 or shape[0] is not None:
            raise ArtifactError(
                f"Its input {name!r} has the shape {shape}; expected any number of rows, None, and fixed sizes"
            )
        sizes = tuple(-1 if size is None else int(size) for size in shape[1:])
        found.append(TensorInput(name, sizes, specs[name].dtype.name))
    return tuple(found)


def _predict(function: Any, columns: InputColumns, rows: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Its own answers, in the order of the rows."""
    import tensorflow

    parts = []
    for start in range(0, count_rows(rows), _AT_ONCE):
        part = columns.join({name: values[start : start + _AT_ONCE] for name, values in rows.items()})
        answer = function(**{name: tensorflow.constant(values) for name, values in part.items()})
        if len(answer) != 1:
            raise ArtifactError(
                f"Its signature has {len(answer)} outputs ({shorten(', '.join(sorted(answer)))}); converted are models "
                "with one: save it with a signature of that output alone"
            )
        values = next(iter(answer.values())).numpy()
        if not values.ndim or len(values) != count_rows(part):
            raise ArtifactError(
                f"Its output has the shape {values.shape} for {count_rows(part)} rows; expected a row each"
            )
        parts.append(values)
    return np.concatenate(parts)
