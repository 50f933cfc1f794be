"""Runs an ONNX model: a file or bytes -> Session with a Signature, `infer(batch) -> batch`. The only ONNX
Runtime user."""

import contextlib
import copy
import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from raymlops.errors import ArtifactError, InputError, ResourceError, unknown_name
from raymlops.models.external_data import ModelFiles
from raymlops.models.safety import Model, read_model
from raymlops.tensors import DATATYPE_OF_ORT, Batch, Signature, TensorSpec

CONTRACT_KEY = "raymlops.contract"
"""Key of the ONNX metadata entry that holds a model's own contract as JSON."""

_NOWHERE = str(pathlib.Path(__file__) / "weights")
"""A folder that cannot be: below a file."""

_OPTIMISATION = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


Provider = str | tuple[str, dict[str, Any]]

_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_CPU = "CPUExecutionProvider"


@dataclasses.dataclass(frozen=True)
class SessionOptions:
    """`threads` is per session; give it the CPUs that Ray reserved, which ONNX Runtime does not see by
    itself."""

    threads: int = 1
    optimisation: str = "all"
    providers: tuple[Provider, ...] = (_CPU,)
    lean: bool = False
    """Weights are not copied into a faster layout: opening takes a third less time and memory half, runs 5%
    more."""

    @classmethod
    def for_device(
        cls, device: str, gpus: Sequence[str | int], threads: int = 1, optimisation: str = "all"
    ) -> "SessionOptions":
        """Options for `device` auto, cpu, cuda or tensorrt and the GPUs that Ray assigned to this process.

        The list of available providers does not tell: the GPU build names CUDA on machines without one. Ray
        hides the other GPUs from the process, so the assigned one is always number 0.
        """
        if device not in _DEVICES:
            raise InputError(unknown_name("device", device, _DEVICES))
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        if device != "cpu" and not gpus:
            raise ResourceError(
                f"Device {device!r} needs a GPU, but Ray assigned none; give the deployment gpus: 1"
            )
        return cls(threads=threads, optimisation=optimisation, providers=_DEVICES[device])


_ON_CUDA: tuple[Provider, ...] = (
    # TF32, its default, rounds factors to 10 bits: answers would no longer be those that the export was proven with.
    (_CUDA, {"device_id": 0, "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}),
    _CPU,
)
_DEVICES: dict[str, tuple[Provider, ...]] = {
    "auto": (),
    "cpu": (_CPU,),
    "cuda": _ON_CUDA,
    "tensorrt": (
        (_TENSORRT, {"device_id": 0, "trt_fp16_enable": False, "trt_engine_cache_enable": True}),
        *_ON_CUDA,
    ),
}


class Session:
    """A loaded model. Safe to call from several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.signature = Signature(
            tuple(_to_spec(node) for node in session.get_inputs()),
            tuple(_to_spec(node) for node in session.get_outputs()),
        )
        self._output_names = [spec.name for spec in self.signature.outputs]
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self._on_gpu = _CUDA in self.providers or _TENSORRT in self.providers
        self.weights: Batch = {}
        """Inputs that are given once and for all."""

    def with_weights(self, weights: Batch) -> "Session":
        """A model whose skeleton this is: the same session, with these of its inputs given once and for all."""
        model = copy.copy(self)
        model.weights = weights
        inputs = tuple(spec for spec in self.signature.inputs if spec.name not in weights)
        model.signature = Signature(inputs, self.signature.outputs)
        return model

    @property
    def contract(self) -> dict[str, Any]:
        """What the file says of its own columns and labels; empty for a model of another origin."""
        return json.loads(self.metadata.get(CONTRACT_KEY, "{}"))  # type: ignore[no-any-return]

    def infer(self, batch: Batch, outputs: Sequence[str] | None = None) -> Batch:
        """Run the model on named input tensors; `outputs` limits what is computed.

        Raises InputError when ONNX Runtime refuses the tensors.
        """
        names = self._output_names if outputs is None else list(outputs)
        feed = {**self.weights, **batch} if self.weights else batch
        try:
            values = self._session.run(names, feed)  # on a GPU a binding of host arrays takes 10% longer
        except (_ort.InvalidArgument, ValueError, TypeError) as error:
            raise InputError(self._explain(batch, str(error))) from None
        except _ort.Fail as error:
            if self._on_gpu:  # where it may be the device that failed
                raise
            raise InputError(self._explain(batch, str(error))) from None
        return dict(zip(names, values, strict=True))

    def _explain(self, batch: Batch, cause: str) -> str:
        specs = {spec.name: spec for spec in self.signature.inputs}
        for name in batch:
            if name not in specs:
                return unknown_name("input", name, specs)
        for name, spec in specs.items():
            if name not in batch:
                return (
                    f"Input {name!r} is missing; the model takes {', '.join(str(s) for s in specs.values())}"
                )
            if batch[name].dtype != spec.dtype or not spec.accepts(batch[name].shape):
                return (
                    f"Input {name!r} is {batch[name].dtype}{list(batch[name].shape)}, but the model "
                    f"takes {spec}"
                )
        return f"The model refused its input: {cause}"


def open_session(model: str | pathlib.Path | Model, options: SessionOptions | None = None) -> Session:
    """Load a model: a file, which is checked, or what was read and checked before.

    Raises NotFoundError, ArtifactError for a file that is not safe or that ONNX Runtime cannot load, or ResourceError
    when it cannot use the device.
    """
    options = options or SessionOptions()
    what = "the given bytes"
    if isinstance(model, str | pathlib.Path):
        what, model = repr(str(model)), read_model(pathlib.Path(model))
    data, weights = model.hand_over() if isinstance(model, ModelFiles) else (model, {})
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # idle threads would eat others' cores
    settings.graph_optimization_level = _OPTIMISATION[options.optimisation]
    settings.log_severity_level = 3
    # ONNX Runtime opens no file: weights are given from memory, and their names lead nowhere.
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    if weights:  # which it copies while it opens
        sizes = [len(content) for content in weights.values()]
        settings.add_external_initializers_from_files_in_memory(list(weights), list(weights.values()), sizes)
    if options.lean:
        settings.enable_cpu_mem_arena = False
        settings.add_session_config_entry("session.disable_prepacking", "1")
    settings.add_session_config_entry("session.load_model_format", "ONNX")  # its own format was not checked
    wanted = _name(options.providers[0])
    said = io.StringIO()  # what ONNX Runtime prints when it turns to another device
    try:
        with contextlib.redirect_stdout(said) if wanted != _CPU else contextlib.nullcontext():
            if wanted != _CPU:
                onnxruntime.preload_dlls()  # finds CUDA and cuDNN inside the wheels that torch brought
            session = onnxruntime.InferenceSession(data, settings, providers=list(options.providers))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes from loading
        raise ArtifactError(f"ONNX Runtime cannot load {what}: {' '.join(str(error).split())}") from None
    if wanted not in session.get_providers():  # it goes on without, which is slow and hides the fault
        cause = " ".join(said.getvalue().split()).rstrip(".") or "it does not say why"
        raise ResourceError(
            f"ONNX Runtime {onnxruntime.__version__} cannot use {wanted}, only {', '.join(session.get_providers())}: "
            f"{cause}. Install the CUDA build of torch, which brings the libraries, and for TensorRT its own, or "
            "choose device: cpu"
        )
    return Session(session)


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _to_spec(node: Any) -> TensorSpec:
    datatype = DATATYPE_OF_ORT.get(node.type)
    if datatype is None:
        raise ArtifactError(f"Tensor {node.name!r} has type {node.type}; only plain tensors are supported")
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, datatype.name, shape)


def as_model_input(values: Any, spec: TensorSpec) -> np.ndarray[Any, Any]:
    """An array of the spec's dtype, contiguous; None in a BYTES tensor becomes the empty string, as in
    training."""
    if spec.datatype == "BYTES":
        array = np.asarray(values, dtype=object)
        return np.where(np.equal(array, np.array(None, dtype=object)), "", array)
    return np.ascontiguousarray(values, dtype=spec.dtype)
