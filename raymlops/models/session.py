"""Runs an ONNX model: a file or bytes -> Session with a Signature, `infer(batch) -> batch`. The only module that
imports ONNX Runtime.

Operators with which a request's values could crash the process are guarded in memory (`fatal_operators`); the file,
its digest, and models without such operators are not changed.
"""

import contextlib
import copy
import dataclasses
import functools
import io
import itertools
import logging
import pathlib
import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from raymlops.artifact import CONTRACT_KEY
from raymlops.errors import (
    ArtifactError,
    DeadlineError,
    InputError,
    ResourceError,
    TooLargeError,
    shorten,
    unknown_name,
)
from raymlops.models import value_flow
from raymlops.models.external_data import ModelFiles
from raymlops.models.fatal_operators import OperatorFindings, examine
from raymlops.models.header import read_contract
from raymlops.models.optional_inputs import fix_optional, list_optional
from raymlops.models.runtime_messages import explain_failure
from raymlops.models.safety import Model, read_model
from raymlops.tensors import DATATYPE_OF_ORT, Batch, Signature, TensorSpec

LOG = logging.getLogger("raymlops.models")
"""Key of the ONNX metadata entry that holds a model's contract as JSON."""

_NOWHERE = str(pathlib.Path(__file__) / "weights")
"""A folder that cannot exist: below a file."""

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
    """`threads` is per session; pass the CPUs that Ray reserved, which ONNX Runtime cannot see by itself."""

    threads: int = 1
    optimisation: str = "all"
    providers: tuple[Provider, ...] = (_CPU,)
    lean: bool = False
    """Do not copy weights into a faster layout: opening takes a third less time and half the memory, runs take 5%
    more."""
    shared: bool = False
    """Callers share the process: a model with which a request could crash it is refused."""
    memory: int = 0
    """Bytes that the tensors of all runs in this process may take, without weights; 0 sets no limit. The first limit
    that is set in a process holds for all its later sessions that have one. On a GPU there is none."""

    @property
    def is_bounded(self) -> bool:
        return self.memory > 0 and self.providers == (_CPU,)

    @classmethod
    def for_device(
        cls, device: str, gpus: Sequence[str | int], threads: int = 1, optimisation: str = "all"
    ) -> "SessionOptions":
        """Options for `device` auto, cpu, cuda or tensorrt and the GPUs that Ray assigned to this process.

        The list of available providers does not say: the GPU build lists CUDA on machines without a GPU. Ray hides
        the other GPUs from the process, so the assigned one is always number 0.
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
    # With TF32, its default, factors are rounded to 10 bits: outputs would differ from those of the parity check.
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


LONGEST_CHECK_S = 5.0
"""Time limit of a run with a sample that may never end, in seconds."""
_FAILURES = (_ort.Fail, _ort.RuntimeException, _ort.NotImplemented, _ort.EPFail)
_SHOWN = 8
"""Number of a request's tensors that an error names."""
_NO_MEMORY = re.compile(r"Available memory of|allocate memory|bad.?alloc", re.IGNORECASE)


def _is_memory(failure: str) -> bool:
    return _NO_MEMORY.search(failure) is not None


def _make_shrinking_options() -> onnxruntime.RunOptions:
    """Run options that return the memory that this and earlier runs no longer use."""
    options = _make_quiet_options()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _make_quiet_options() -> onnxruntime.RunOptions:
    """Errors are raised; ONNX Runtime should not also print them for every refused request."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options


_RUN = _make_quiet_options()
"""Shared run options of ordinary runs: making new ones takes a tenth of a short run."""


class RunControl:
    """One run that another thread can cancel: between two operators, so that an endless loop ends too."""

    def __init__(self, options: onnxruntime.RunOptions) -> None:
        self.options = options
        self.ended = False

    def end(self) -> None:
        """Make the run raise DeadlineError."""
        self.ended = True
        self.options.terminate = True


class Session:
    """A loaded model. Safe to call from several threads at once."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        by_value: tuple[str, ...] = (),
        bounded: bool = False,
        filled: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self._session = session
        self._bounded = bounded
        self.by_value = by_value
        """Operators whose run time or output grows with input values, not with the number of elements."""
        self._filled = filled
        self.signature = Signature(
            tuple(_to_spec(node) for node in session.get_inputs()),
            tuple(_to_spec(node) for node in session.get_outputs()),
        )
        self.optional: tuple[TensorSpec, ...] = _to_optional(session.get_overridable_initializers())
        """Inputs with default values, which a batch may override."""
        self._output_names = [spec.name for spec in self.signature.outputs]
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self._on_gpu = _CUDA in self.providers or _TENSORRT in self.providers
        self.weights: Batch = {}
        """Inputs that are set once for all runs."""

    def with_weights(self, weights: Batch) -> "Session":
        """A model with this skeleton: the same session, with these inputs set once for all runs."""
        model = copy.copy(self)
        model.weights = weights
        inputs = tuple(spec for spec in self.signature.inputs if spec.name not in weights)
        model.signature = Signature(inputs, self.signature.outputs)
        return model

    @property
    def contract(self) -> dict[str, Any]:
        """The file's contract on its columns and labels; empty for a model of another origin."""
        return read_contract(self.metadata.get(CONTRACT_KEY, "{}"))

    def begin(self) -> RunControl:
        """A control for `infer`, to cancel the run."""
        return RunControl(_make_shrinking_options() if self._bounded else _make_quiet_options())

    def infer(
        self, batch: Batch, outputs: Sequence[str] | None = None, control: RunControl | None = None
    ) -> Batch:
        """Run the model on named input tensors; `outputs` limits what is computed.

        Raises InputError if ONNX Runtime refuses the tensors, TooLargeError if they would take more memory than a run
        may, DeadlineError if `control` cancelled the run.
        """
        names = self._output_names if outputs is None else list(outputs)
        feed = {**self.weights, **batch} if self.weights else batch
        if self._filled:
            self._check_filled(feed)
        try:
            # Passing existing options saves the session making some; on a GPU a binding of host arrays takes 10%
            # longer.
            values = self._session.run(names, feed, _RUN if control is None else control.options)
        except (_ort.InvalidArgument, ValueError, TypeError) as error:
            raise InputError(self._explain(batch, str(error))) from None
        except _FAILURES as error:
            if self._on_gpu and not _is_memory(str(error)):  # it may be the device that failed
                raise
            failure = str(error)  # the exception itself would keep alive the outputs of the second try
        else:
            return dict(zip(names, values, strict=True))
        return dict(zip(names, self._run_again(names, feed, batch, failure, control), strict=True))

    def close(self) -> None:
        """Return memory that is freed only on request."""

    def check(self, batch: Batch) -> None:
        """Run this batch to check that the model answers. Raises what the run raises."""
        if self.by_value:
            self.infer_within(batch, LONGEST_CHECK_S)
        else:
            self.infer(batch)

    def infer_within(self, batch: Batch, seconds: float) -> Batch:
        """Like `infer`, for values with which the run may never end. Raises DeadlineError."""
        control = self.begin()
        timer = threading.Timer(seconds, control.end)
        timer.start()
        try:
            return self.infer(batch, control=control)
        finally:
            timer.cancel()

    def _check_filled(self, feed: Batch) -> None:
        """Refuse an empty axis of rows or steps where an operator would crash the process."""
        for name, axis in self._filled:
            shape = np.shape(feed[name]) if name in feed else ()
            if axis < len(shape) and not shape[axis]:
                raise InputError(
                    f"Input {name!r} has the shape {list(shape)}; the model takes no axis {axis} of length 0: send at "
                    "least one"
                )

    def _run_again(
        self, names: list[str], feed: Batch, batch: Batch, failure: str, control: RunControl | None
    ) -> Any:
        """If memory was short, return what earlier runs still hold, and try once more. Else raise."""
        # The run of `control` has already returned its memory.
        tries = [_make_shrinking_options(), _RUN] if control is None else [control.options]
        for options in tries:
            if control is not None and control.ended:
                raise DeadlineError("The run was ended; nobody waits for it any more")
            if not _is_memory(failure) or not self._bounded:
                break
            try:
                return self._session.run(names, feed, options)
            except _FAILURES as error:
                failure = str(error)
        if not _is_memory(failure):
            raise InputError(self._explain(batch, failure))
        raise TooLargeError(
            "The tensors of this request take more memory than the runs of a replica may; send fewer or smaller "
            f"rows, or raise limits: {{run_memory_mb}} ({shorten(explain_failure(failure))})"
        )

    def _explain(self, batch: Batch, cause: str) -> str:
        required = {spec.name: spec for spec in self.signature.inputs}
        specs = required | {spec.name: spec for spec in self.optional if spec.name in batch}
        for name in batch:
            if name not in specs:
                return unknown_name("input", name, specs)
        for name, spec in specs.items():
            if name not in batch:
                return f"Input {name!r} is missing; the model takes {', '.join(str(s) for s in required.values())}"
            if batch[name].dtype != spec.dtype or not spec.accepts(batch[name].shape):
                return (
                    f"Input {name!r} is {batch[name].dtype}{list(batch[name].shape)}, but the model "
                    f"takes {spec}"
                )
        LOG.debug("a run failed: %s", cause)
        given = ", ".join(
            f"{name!r} {array.dtype}{list(array.shape)}"
            for name, array in itertools.islice(batch.items(), _SHOWN)
        )
        more = f" and {len(batch) - _SHOWN} more" if len(batch) > _SHOWN else ""
        return f"The model refused its input: {shorten(explain_failure(cause), 1000)} (given: {given}{more})"


def open_session(model: str | pathlib.Path | Model, options: SessionOptions | None = None) -> Session:
    """Load a model: a file, which is checked, or a model that was read and checked before.

    Raises NotFoundError; ArtifactError for a file that is unsafe, that ONNX Runtime cannot load, or with which a
    request could crash a process that `options` say is shared; or ResourceError if it cannot use the device.
    """
    options = options or SessionOptions()
    what = "the given bytes"
    if isinstance(model, str | pathlib.Path):
        what, model = repr(str(model)), read_model(pathlib.Path(model))
    data, weights = model.split_for_session() if isinstance(model, ModelFiles) else (model, {})
    examined = _examine(data)
    if options.shared:
        _refuse_fatal(examined, what)
    if examined.model is not None:
        data = bytes(examined.model.SerializeToString())
    settings = _make_settings(options)
    if weights:  # copied during opening
        sizes = [len(content) for content in weights.values()]
        settings.add_external_initializers_from_files_in_memory(list(weights), list(weights.values()), sizes)
    wanted = _name(options.providers[0])
    said = io.StringIO()  # what ONNX Runtime prints when it falls back to another device
    try:
        with contextlib.redirect_stdout(said) if wanted != _CPU else contextlib.nullcontext():
            if wanted != _CPU:
                onnxruntime.preload_dlls()  # finds CUDA and cuDNN inside the wheels installed with torch
            session = onnxruntime.InferenceSession(data, settings, providers=list(options.providers))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes from loading
        LOG.debug("%s was not loaded: %s", what, error)
        raise ArtifactError(f"ONNX Runtime cannot load {what}: {explain_failure(error)}") from None
    # it would continue without, which is slow and hides the problem
    if wanted not in session.get_providers():
        cause = " ".join(said.getvalue().split()).rstrip(".") or "it does not say why"
        raise ResourceError(
            f"ONNX Runtime {onnxruntime.__version__} cannot use {wanted}, only {', '.join(session.get_providers())}: "
            f"{cause}. Install the CUDA build of torch, which brings the libraries, and for TensorRT its own, or "
            "choose device: cpu"
        )
    return Session(session, examined.by_value, bounded=options.is_bounded, filled=examined.filled)


def check_shareable(model: Model, what: str) -> None:
    """Raise ArtifactError for a model that may not run in a shared process; makes no session."""
    _refuse_fatal(_examine(model.data if isinstance(model, ModelFiles) else model), what)


def _refuse_fatal(examined: OperatorFindings, what: str) -> None:
    if examined.refused:
        raise ArtifactError(
            f"The values or shapes of a request could crash the process that runs {what}: "
            f"{'; '.join(examined.refused)}. Serve it with isolate: true, which gives it its own process"
        )


def _make_settings(options: SessionOptions) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # idle threads would use other models' cores
    settings.graph_optimization_level = _OPTIMISATION[options.optimisation]
    settings.log_severity_level = 3
    # ONNX Runtime opens no file: weights are passed from memory, and their names lead nowhere.
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    settings.add_session_config_entry("session.load_model_format", "ONNX")  # its own format is not checked
    if options.is_bounded:
        _ARENA.bound(options.memory)
        settings.add_session_config_entry("session.use_env_allocators", "1")
        settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if options.lean:
        # an arena per session is too much for many sessions
        settings.enable_cpu_mem_arena = options.is_bounded
        settings.add_session_config_entry("session.disable_prepacking", "1")
    return settings


class _Arena:
    """The arena that sessions of this process with a memory limit share for the tensors of their runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bound = 0

    def bound(self, memory: int) -> None:
        with self._lock:
            if self._bound:
                return
            place = onnxruntime.OrtMemoryInfo(
                "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
            )
            # Chunks double in size: with one chunk per tensor, freeing the many small tensors of a loop takes very
            # long.
            doubling = 0
            onnxruntime.create_and_register_allocator(
                place, onnxruntime.OrtArenaCfg({"max_mem": memory, "arena_extend_strategy": doubling})
            )
            self._bound = memory


_ARENA = _Arena()


def _examine(data: bytes) -> OperatorFindings:
    """What the operators of a model do with values; empty for a broken file, which the session will report."""
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return OperatorFindings(None, (), ())
    try:
        found = examine(model, _find_schema)
        if found.refused and list_optional(model):
            return _examine_fixed(model)
        return found
    except Exception as error:  # inlining functions raises a dozen unrelated classes
        return OperatorFindings(
            None, (), (f"its graph cannot be analysed ({shorten(explain_failure(error))})",)
        )


def _examine_fixed(model: onnx.ModelProto) -> OperatorFindings:
    """Optional inputs whose values could do harm cannot be overridden."""
    fixed = fix_optional(model)
    found = examine(fixed, _find_schema)
    return found if found.model is not None else dataclasses.replace(found, model=fixed)


def _find_schema(operator: str, domain: str, opset: int) -> Any:
    """The operator's schema in onnx, or else in ONNX Runtime."""
    return value_flow.find_onnx_schema(operator, domain, opset) or _list_schemas().get((domain, operator))


@functools.cache
def _list_schemas() -> dict[tuple[str, str], Any]:
    """Schemas of the operators that ONNX Runtime adds to ONNX's, by domain and name."""
    return {
        (schema.domain, schema.name): schema
        for schema in _ort.get_all_operator_schema()
        if schema.domain.startswith("com.microsoft")
    }


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _to_optional(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Specs of the tensors that a request can hold."""
    return tuple(_to_spec(node) for node in nodes if node.type in DATATYPE_OF_ORT)


def _to_spec(node: Any) -> TensorSpec:
    datatype = DATATYPE_OF_ORT.get(node.type)
    if datatype is None:
        raise ArtifactError(
            f"Tensor {node.name!r} has type {node.type}; only plain tensors are supported; "
            "export without maps and sequences (skl2onnx: options={'zipmap': False})"
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, datatype.name, shape)


def as_model_input(values: Any, spec: TensorSpec) -> np.ndarray[Any, Any]:
    """An array of the spec's dtype, contiguous; None in a BYTES tensor becomes the empty string, as in
    training."""
    if spec.datatype == "BYTES":
        array = np.asarray(values, dtype=object)
        return np.where(np.equal(array, np.array(None, dtype=object)), "", array)
    return np.ascontiguousarray(values, dtype=spec.dtype)
