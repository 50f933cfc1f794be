"""Finds an example request that a model accepts, in the form of each protocol, by trying: a signature does not say
which free sizes and values a model accepts."""

import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from raymlops.errors import DeadlineError, InputError, NodeError, ProcessEndedError, RaymlopsError
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.protocol import json_tables
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.examples import Example, ExampleTensor, Shape
from raymlops.tensors import Batch

_SIZES = (1, 2, 3, 4, 8, 16, 32, 64, 128, 224)
"""Sizes to try for the dimensions that a request chooses, other than that of the rows."""
_VALUES: tuple[dict[str, Any], ...] = (
    {"FP": 0.5, "BYTES": "text", "BOOL": True, "INT": 1},
    {"FP": 0.5, "BYTES": "1", "BOOL": False, "INT": 0},
    {"FP": 0, "BYTES": "", "BOOL": False, "INT": 0},
)
_TIME = "2013-07-01T12:00:00Z"


def find_shape(hosted: Hosted) -> Shape:
    signature = hosted.endpoint.signature
    asked = all(spec.shape[:1] == (-1,) for spec in signature.inputs)
    one = len(signature.outputs) == 1
    answered = one or all(spec.shape[:1] == (-1,) for spec in signature.outputs)
    flat = one or not hosted.answers_frames or all(spec.shape == (-1,) for spec in signature.outputs)
    return Shape(asked and answered, asked and flat)


def list_candidates(hosted: Hosted) -> Iterator[Example]:
    """Requests that the model may accept, the likeliest first."""
    binary_out = any(spec.datatype == "FP16" for spec in hosted.endpoint.signature.outputs)
    shape = find_shape(hosted)
    required = [column for column in hosted.columns.values() if not column.optional]
    free = any(size < 0 for column in required for size in column.spec.shape[1:])
    for size in _SIZES if free else _SIZES[:1]:
        for values in _VALUES:
            tensors = tuple(_make_tensor(column, size, values) for column in required)
            yield Example(tensors, shape, binary_out)


def _make_tensor(column: Column, size: int, values: Mapping[str, Any]) -> ExampleTensor:
    spec = column.spec
    shape = tuple(
        fixed if fixed >= 0 else (1 if axis == 0 else size) for axis, fixed in enumerate(spec.shape)
    )
    kind = {"F": "FP", "B": spec.datatype}.get(spec.datatype[0], "INT")
    value = _TIME if column.kind == "timestamp" else values["INT" if column.kind == "integer" else kind]
    return ExampleTensor(column, shape, value)


async def find_example(hosted: Hosted) -> Example | None:
    """A request that the model accepted, searched for once; None if the model refused all. A model that is loaded on
    demand is not tried: its likeliest request is returned."""
    if hosted.try_batch is None:
        return next(list_candidates(hosted))
    async with hosted.search:  # other callers wait for the one that searches
        return await _search(hosted, hosted.try_batch)


async def _search(hosted: Hosted, try_batch: Callable[[Batch], Awaitable[Batch]]) -> Example | None:
    if not hosted.examples:
        for example in list_candidates(hosted):
            tried = example if example.is_small else _to_zeros(example)
            try:
                answer = await try_batch(tried.to_batch())
            except (InputError, NodeError):
                continue
            except DeadlineError:  # it was not refused
                hosted.examples.append(tried)
                break
            except ProcessEndedError:  # such a failure must not be repeated
                hosted.examples.append(None)
                break
            except RaymlopsError:  # it is overloaded: try again later
                return None
            hosted.examples.append(dataclasses.replace(tried, shape=_fit(tried.shape, answer, hosted)))
            break
        else:
            hosted.examples.append(None)
    found = hosted.examples[0]
    return found if isinstance(found, Example) else None


def _fit(shape: Shape, answer: Batch, hosted: Hosted) -> Shape:
    """What the signature promises about rows, as far as an answer confirms it."""
    signature = hosted.endpoint.signature
    try:
        json_tables.to_rows(answer, 1, signature)
        if hosted.answers_frames:
            json_tables.to_records(answer, 1, signature)
    except InputError:
        return Shape(in_rows=False, in_records=shape.in_records and not hosted.answers_frames)
    return shape


_ZEROS: dict[str, Any] = {"BYTES": "", "BOOL": False}


def _to_zeros(example: Example) -> Example:
    zeros = [
        dataclasses.replace(tensor, value=_ZEROS.get(tensor.column.spec.datatype, 0))
        for tensor in example.tensors
    ]
    return dataclasses.replace(example, tensors=tuple(zeros))
