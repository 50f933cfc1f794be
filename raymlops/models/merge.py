"""Merges ONNX models that feed each other into one ONNX graph with the same outputs. Runs nothing."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx.compose
import onnx.version_converter

from raymlops.errors import ArtifactError
from raymlops.models.external_data import ModelFiles
from raymlops.models.runtime_messages import explain_failure
from raymlops.models.safety import Model, read_model

MAX_BYTES = 1_500_000_000
"""ONNX files are protocol buffers, which are limited to 2 GB."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A model, and for each of its inputs the tensor to read: `part.output`, or any other name for an outside
    tensor."""

    name: str
    model: onnx.ModelProto
    reads: Mapping[str, str]


def load_part(name: str, model: str | pathlib.Path | Model, reads: Mapping[str, str]) -> Part:
    if isinstance(model, str | pathlib.Path):
        model = read_model(pathlib.Path(model))
    loaded = model.embed() if isinstance(model, ModelFiles) else onnx.load_from_string(model)
    return Part(name, loaded, reads)


def merge_models(parts: Sequence[Part], outputs: Sequence[str]) -> bytes:
    """One model made of several, each listed after those that it reads; its `outputs` are written `part.output`.

    Raises ArtifactError with the reason if they cannot be merged: then keep them apart.
    """
    total = sum(part.model.ByteSize() for part in parts)
    if total > MAX_BYTES:
        raise ArtifactError(
            f"Merging {_names(parts)} would take {total} bytes; at most {MAX_BYTES} fit one ONNX file"
        )
    opsets = _choose_opsets(parts)
    models = [onnx.compose.add_prefix(_convert(part, opsets), f"{part.name}/") for part in parts]
    produced = {f"{part.name}.{value.name}" for part in parts for value in part.model.graph.output}
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, onnx.ValueInfoProto] = {}
    for part, model in zip(parts, models, strict=True):
        for value in _list_inputs(model.graph):
            source = part.reads[value.name.removeprefix(f"{part.name}/")]
            if source in produced:
                owner, _, tensor = source.partition(".")
                nodes.append(onnx.helper.make_node("Identity", [f"{owner}/{tensor}"], [value.name]))
                continue
            if source not in inputs:
                inputs[source] = onnx.ValueInfoProto()
                inputs[source].CopyFrom(value)
                inputs[source].name = source
            nodes.append(onnx.helper.make_node("Identity", [source], [value.name]))
        nodes.extend(model.graph.node)
    answers = {
        f"{part.name}.{value.name.removeprefix(f'{part.name}/')}": value
        for part, value in _outputs(parts, models)
    }
    answered = []
    for name in outputs:
        nodes.append(onnx.helper.make_node("Identity", [answers[name].name], [name]))
        value = onnx.ValueInfoProto()
        value.CopyFrom(answers[name])
        value.name = name
        answered.append(value)
    graph = onnx.helper.make_graph(
        nodes,
        "+".join(part.name for part in parts),
        list(inputs.values()),
        answered,
        [tensor for model in models for tensor in model.graph.initializer],
        sparse_initializer=[tensor for model in models for tensor in model.graph.sparse_initializer],
    )
    merged = onnx.helper.make_model(
        graph,
        functions=[function for model in models for function in model.functions],
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=max(part.model.ir_version for part in parts),
    )
    try:
        onnx.checker.check_model(merged)
    except onnx.checker.ValidationError as error:
        raise ArtifactError(
            f"Merging {_names(parts)} gives no valid model: {explain_failure(error)}"
        ) from None
    return bytes(merged.SerializeToString())


def _choose_opsets(parts: Sequence[Part]) -> dict[str, int]:
    """The highest version of each domain; only ONNX's own domain can be converted."""
    opsets: dict[str, int] = {}
    for part in parts:
        for imported in part.model.opset_import:
            domain = "" if imported.domain == "ai.onnx" else imported.domain
            known = opsets.setdefault(domain, imported.version)
            if known != imported.version and domain:
                raise ArtifactError(
                    f"{_names(parts)} use versions {known} and {imported.version} of operators {domain!r}; "
                    f"export them with the same one to merge them"
                )
            opsets[domain] = max(known, imported.version)
    return opsets


def _convert(part: Part, opsets: Mapping[str, int]) -> onnx.ModelProto:
    version = next((o.version for o in part.model.opset_import if o.domain in ("", "ai.onnx")), None)
    if version in (None, opsets.get("")):
        return part.model
    try:
        return onnx.version_converter.convert_version(part.model, opsets[""])
    except Exception as error:  # the converter raises RuntimeError, ValueError and its own classes
        raise ArtifactError(
            f"{part.name!r} cannot be converted to opset {opsets['']}: {explain_failure(error)}"
        ) from None


def _list_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs that are not weights; old files list both."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _outputs(
    parts: Sequence[Part], models: Sequence[onnx.ModelProto]
) -> Iterator[tuple[Part, onnx.ValueInfoProto]]:
    for part, model in zip(parts, models, strict=True):
        for value in model.graph.output:
            yield part, value


def _names(parts: Sequence[Part]) -> str:
    return ", ".join(repr(part.name) for part in parts)
