"""The models that the onnx package generates to test backends, with a free first axis where their inputs allow it."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
from onnx import numpy_helper

from raymlops.tensors import Batch


@functools.cache
def list_cases() -> list[Any]:
    with np.errstate(all="ignore"):  # it shows overflows and divisions by zero, too
        return sorted(node_cases.collect_testcases(None), key=lambda case: str(case.name))


def free_rows(case: Any, most_free: int) -> Iterator[tuple[str, onnx.ModelProto, Batch]]:
    """The model once for every choice of up to `most_free` inputs that may carry rows; the others become constants.

    With rows for its inputs: those of the case, as many for each.
    """
    model = case.model
    inputs, _ = case.data_sets[0]
    names = [value.name for value in model.graph.input]
    arrays = {}
    for name, array in zip(names, inputs, strict=False):
        array = np.asarray(array) if isinstance(array, np.generic) else array
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufOSU":
            continue
        arrays[name] = array
    if set(arrays) != set(names):
        return
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    possible = [
        name for name in names if ranks[name] and ranks[name] == arrays[name].ndim and len(arrays[name])
    ]
    for count in range(1, min(most_free, len(possible)) + 1):
        for chosen in itertools.combinations(possible, count):
            freed = onnx.ModelProto()
            freed.CopyFrom(model)
            graph = freed.graph
            del graph.input[:]
            for value in model.graph.input:
                if value.name not in chosen:
                    tensor = numpy_helper.from_array(arrays[value.name], value.name)
                    graph.initializer.append(tensor)
                    continue
                kept = graph.input.add()
                kept.CopyFrom(value)
                kept.type.tensor_type.shape.dim[0].ClearField("dim_value")
                kept.type.tensor_type.shape.dim[0].dim_param = "rows"
            for output in graph.output:
                output.type.tensor_type.ClearField("shape")
            del graph.value_info[:]
            rows = max(len(arrays[name]) for name in chosen)
            batch = {
                name: np.stack([arrays[name][i % len(arrays[name])] for i in range(rows)]) for name in chosen
            }
            yield f"{case.name}({', '.join(chosen)})", freed, batch


def _repeat(array: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    repeated = np.stack([array[row % len(array)] for row in range(rows)])
    return repeated.astype(object) if repeated.dtype.kind in "SU" else repeated
