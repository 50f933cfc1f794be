"""Which files of torch.export.save load without running code of theirs.

torch.export.load itself unpickles tensors of own classes and example inputs, evaluates the formulas of sizes as Python,
writes names into Python source that it compiles, calls whatever function of torch a node names, and loads compiled
libraries. `copy_safely` writes a file that has none of these, of one of which all that is kept was checked.
"""

import ast
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from raymlops.errors import ArtifactError, shorten
from raymlops.training.saved_models.archives import open_archive

_MODEL = "models/model.json"
_KEPT = re.compile(
    r"(archive_format|archive_version|models/model\.json|"
    r"data/(weights|constants)/(model_(weights|constants)_config\.json|weight_\d+|tensor_\d+))"
)
"""Files of an archive that are copied; others have pickles, compiled code, or what a person attached."""
_PLAIN = re.compile(r"[\w.+]{0,500}", re.ASCII)
_TEXT = re.compile(r"[\w .,:;+\-*/<>=()\[\]]{0,500}", re.ASCII)
"""Of an argument that is text, such as the equation of einsum; it is not evaluated."""
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+(\.\w+)?|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|"
    r"wrap_with_set_grad_enabled|wrap_with_autocast)|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|ge|gt|le|"
    r"lt|eq|ne|and_|or_|not_|getitem)|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(int|float|max|min|not|sqrt|sum|ite)",
    re.ASCII,
)
_REFUSED = re.compile(r"torch\.ops\.aten\.(from_file|_unsafe_\w*index\w*)\b.*")
"""Operators that open files or read beyond their tensors."""
_SYMBOLIC = frozenset(
    (
        "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs", "And", "Or",
        "Not", "Equality", "Unequality", "Eq", "Ne", "Ge", "Gt", "Le", "Lt", "StrictGreaterThan", "GreaterThan",
        "StrictLessThan", "LessThan", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt",
        "FloorToInt", "CeilDiv", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat",
        "TruncToInt", "RoundToInt", "ToFloat", "Identity",
    )
)  # fmt: skip
"""Functions in the formulas of sizes."""
_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add,
    ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.Mod,
)  # fmt: skip
_REMEDY = "; --trust converts it nevertheless, and runs what it brings"


def copy_safely(file: pathlib.Path, copy: pathlib.Path) -> None:
    """Raises ArtifactError for a file that needs more than what is copied."""
    with open_archive(file) as archive:
        parts = _read_parts(archive)
    model = json.loads(parts[_MODEL])
    _strip(model)
    _check(model, "")
    for name in parts:
        if name.endswith("_config.json"):
            _check_payload(json.loads(parts[name]), name)
    example = io.BytesIO()
    torch.save(((), {}), example)
    parts[_MODEL] = json.dumps(model).encode()
    parts["data/sample_inputs/model.pt"] = example.getvalue()
    writer = torch._C.PyTorchFileWriter(str(copy))
    for name, content in parts.items():
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()


def _read_parts(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The files that are kept, by their names below the folder that all have."""
    parts = {}
    for name in archive.namelist():
        below = name.partition("/")[2]
        if _KEPT.fullmatch(below):
            parts[below] = archive.read(name)
        elif below.startswith(("models/", "data/weights/", "data/constants/")):
            raise ArtifactError(
                f"Its file {shorten(below)!r} is none that torch.export.save writes for one program{_REMEDY}"
            )
    missing = [name for name in ("archive_format", _MODEL) if name not in parts]
    if missing or parts["archive_format"].strip() != b"pt2":
        raise ArtifactError(
            f"It is no whole exported program: the archive lacks {', '.join(missing) or 'the format pt2'}. Files of "
            "torch.save and torch.jit.save are not read: torch.export.save(torch.export.export(...), FILE)"
        )
    return parts


def _strip(value: Any) -> None:
    """Leaves out where nodes come from, and conditions that are Python: neither is needed to run them."""
    if isinstance(value, dict):
        if isinstance(value.get("metadata"), dict):
            value["metadata"] = {}
        if "guards_code" in value:
            value["guards_code"] = []
        for inner in value.values():
            _strip(inner)
    elif isinstance(value, list):
        for inner in value:
            _strip(inner)


def _check(value: Any, key: str) -> None:
    """`key` is the nearest one above."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _require(name, _PLAIN, "name")
            _check(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key)
    elif isinstance(value, str):
        _CHECKS.get(key, _check_name)(value)


def _check_name(value: str) -> None:
    _require(value, _PLAIN, "name")


def _require(value: str, pattern: re.Pattern[str], what: str) -> None:
    if not pattern.fullmatch(value):
        raise ArtifactError(
            f"It has the {what} {shorten(repr(value))}, which torch would run as code{_REMEDY}"
        )


def _check_target(value: str) -> None:
    if not _TARGET.fullmatch(value) or _REFUSED.fullmatch(value):
        raise ArtifactError(
            f"It calls {shorten(repr(value))}; converted are programs of operators of torch.ops.aten and prims{_REMEDY}"
        )


def _check_formula(value: str) -> None:
    try:
        nodes = list(ast.walk(ast.parse(value, mode="eval"))) if len(value) < 10_000 else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = []
    if not nodes or not all(map(_is_harmless, nodes)):
        raise ArtifactError(
            f"The size {shorten(repr(value))} is no formula of sizes, and torch would run it as code{_REMEDY}"
        )


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SYMBOLIC
    if isinstance(node, ast.Name):
        known = node.id in _SYMBOLIC or node.id in ("true", "false", "oo", "int_oo")
        return known or re.fullmatch(r"[a-z]{1,4}\d{1,6}", node.id, re.ASCII) is not None
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or re.fullmatch(r"\w{1,50}", node.value, re.ASCII) is not None
    return isinstance(node, _NODES)


def _check_structure(value: str) -> None:
    """Of inputs or outputs, which names types and, for mappings, keys."""
    found = json.loads(value) if value else []
    if isinstance(found, str | int):
        _check_name(str(found))
    _check_structure_part(found)


def _check_structure_part(value: Any) -> None:
    if isinstance(value, Mapping):
        if not set(value) <= {"type", "context", "children_spec"}:
            raise ArtifactError(
                f"The structure of its inputs has {shorten(', '.join(map(str, value)))}{_REMEDY}"
            )
        if isinstance(value.get("context"), str):
            _check_structure_part(json.loads(value["context"]))
        _check_structure_part(value.get("type"))
        _check_structure_part(value.get("children_spec"))
    elif isinstance(value, list):
        for inner in value:
            _check_structure_part(inner)
    elif isinstance(value, str):
        _check_name(value)


def _check_text(value: str) -> None:
    _require(value, _TEXT, "text")


_CHECKS = {
    "target": _check_target,
    "as_operator": _check_target,
    "expr_str": _check_formula,
    "in_spec": _check_structure,
    "out_spec": _check_structure,
    "as_string": _check_text,
    "as_strings": _check_text,
}
"""Key -> what may stand there; elsewhere stand names."""


def _check_payload(value: Any, name: str) -> None:
    _check(value, "")
    for tensor, held in value["config"].items():
        path = str(held["path_name"])
        if held["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise ArtifactError(f"{shorten(repr(tensor))} of {name} is a pickle of an own class{_REMEDY}")
