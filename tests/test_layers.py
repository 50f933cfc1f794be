"""Holds the layout by reading the source: floors, one address a framework, sizes and names of modules."""

import ast
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "raymlops"
MODULES = sorted(PACKAGE.rglob("*.py"))

ENGINES = {"data", "training", "models", "tracking", "evaluation", "monitoring", "graphs", "clusters"}
FLOOR = {
    **dict.fromkeys(("errors", "settings", "locations", "tensors", "artifact"), 0),
    **dict.fromkeys(
        ("metrics", "histograms", "features", "expressions", "attestation", "onnx_builder", "observers"), 0
    ),
    **dict.fromkeys(("conversions", "file_endings", "private_names", "ray_internals", "table_profile"), 0),
    "secret_texts": 0,
    "tensor_columns": 0,
    "file_store": 0,
    "specs": 1,
    "captures": 1,
    "events": 1.5,  # reads notify.yaml as a spec; any engine may send events
    **dict.fromkeys(ENGINES, 2),
    "runtime": 3,
    **dict.fromkeys(("serving", "lifecycle"), 4),
    **dict.fromkeys(("cli", "__main__", "api"), 5),
    "__init__": 6,  # gives the functions of api
}
"""Top-level name below the package -> floor. A new name is placed here on purpose."""

APART = (ENGINES, {"serving", "lifecycle"})
"""Names of one floor that do not import each other."""

ROOMS = {
    "serving": (
        "serve_internals", "startup_failures", "haproxy", "protocol", "endpoints", "transport", "actors", "proxy",
        "fastpath", "replica",
        "app", "deploy",
    ),
}  # fmt: skip
"""Rooms of a part, from the lowest floor up."""

ADDRESSES = {
    "mlflow": ("tracking/",),
    "onnxruntime": (
        "models/session.py",
        "models/variants.py",
        "clusters/nodes.py",
    ),  # the last asks a node what it has
    "ray.serve": ("serving/replica/", "serving/deploy/", "serving/transport/drain.py"),
    "uvicorn": ("serving/fastpath/uvicorn_internals.py",),
    "starlette": ("serving/fastpath/middleware.py",),
    "httptools": ("serving/fastpath/uvicorn_protocol.py",),
    "optuna": ("training/",),
    "lightgbm": ("training/",),
    "xgboost": ("training/",),
    "interpret": ("training/",),
    **dict.fromkeys(("h5py", "keras", "tensorflow", "tf2onnx"), ("training/",)),
    "catboost": ("training/",),
    "torch": ("training/", "clusters/nodes.py"),
}
"""Framework -> where it may be imported."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "grpc": "grpcio",
    "interpret": "interpret-core",
    "grpc_health": "grpcio-health-checking",
    "simdjson": "pysimdjson",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow-cpu",
    "xgboost": "xgboost-cpu",
    "yaml": "pyyaml",
}
"""Import -> package, where the two have other names."""
EXTRAS = {
    "cli/progress.py": "notebook",
    "events/channels/apprise.py": "notify",
    "data/samples.py": "examples",
    "serving/protocol/grpc_codec.py": "grpc",
    "serving/transport/grpc_answers.py": "grpc",
    "serving/transport/grpc_service.py": "grpc",
    "training/keras_models.py": "tf",
    "training/saved_models/keras_file.py": "tf",
    "training/saved_models/tensorflow_folder.py": "tf",
    "training/learners/catboost.py": "catboost",
    "training/learners/keras.py": "tf",
    "training/tensorflow_export.py": "tf",
}
"""Module -> the extra that it is for; all others need the core alone."""

_EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager", "factory", "core"}


def name_of(module: pathlib.Path) -> str:
    return str(module.relative_to(PACKAGE))


def part_of(module: pathlib.Path) -> str:
    """The first name below the package: a floor's folder or module."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(module: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, inside its functions too."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(module)}:{node.lineno} imports relative to itself"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_nothing_imports_upward_and_engines_do_not_import_each_other(module: pathlib.Path) -> None:
    part = part_of(module)
    assert part in FLOOR, f"place {part!r} on a floor"
    for line, name in imports_of(module):
        names = name.split(".")
        if names[0] != "raymlops" or names[1:2] in ([], [part], ["__version__"]):
            continue
        where = f"{name_of(module)}:{line} imports {name}"
        assert names[1] in FLOOR, where
        assert FLOOR[names[1]] <= FLOOR[part], where
        assert not any({part, names[1]} <= apart for apart in APART), (
            f"{where}: they do not import each other"
        )


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_rooms_of_a_part_import_nothing_above_them(module: pathlib.Path) -> None:
    part, room, *_ = (*module.relative_to(PACKAGE).with_suffix("").parts, "")
    rooms = ROOMS.get(part, ())
    if not rooms or room == "__init__":
        return
    assert room in rooms, f"place {part}/{room} on a floor"
    for line, name in imports_of(module):
        names = name.split(".")
        if names[:2] == ["raymlops", part] and len(names) > 2:
            where = f"{name_of(module)}:{line} imports {name}"
            assert rooms.index(names[2]) <= rooms.index(room), where


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_private_names_stay_in_their_folder(module: pathlib.Path) -> None:
    folder = ".".join(module.relative_to(PACKAGE.parent).parent.parts)
    for line, name in imports_of(module):
        if name.startswith("raymlops."):
            private = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
            assert not private or name.startswith(f"{folder}."), f"{name_of(module)}:{line} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_each_framework_has_one_address(module: pathlib.Path) -> None:
    for line, name in imports_of(module):
        for framework, addresses in ADDRESSES.items():
            if name == framework or name.startswith(f"{framework}."):
                assert name_of(module).startswith(addresses), f"{name_of(module)}:{line} imports {name}"


def _declared() -> dict[str, set[str]]:
    """Extra, empty for the core -> names of packages that pyproject.toml declares there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {canonicalize_name(Requirement(text).name) for text in texts}
        for extra, texts in listed.items()
    }


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_package_that_is_imported_is_declared(module: pathlib.Path) -> None:
    declared = _declared()
    extra = EXTRAS.get(name_of(module), "")
    for line, name in imports_of(module):
        first = name.partition(".")[0]
        if first == "raymlops" or first in sys.stdlib_module_names:
            continue
        package = canonicalize_name(DISTRIBUTIONS.get(first, first))
        assert package in declared[""] | declared.get(extra, set()), (
            f"{name_of(module)}:{line} imports {first}; declare {package} in pyproject.toml"
        )


def test_every_package_that_is_declared_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert {name for names in _declared().values() for name in names} - pinned <= {"raymlops"}


INTERNALS = ("ray_internals.py", "serving/serve_internals.py", "serving/fastpath/uvicorn_internals.py")
"""Where private parts of other packages are touched, see `private_names`."""
_OF_OTHERS = re.compile(
    r"(ray|uvicorn|starlette|mlflow|optuna|onnxruntime)\.(.*\.)?_(?!_)|ray\.(core|autoscaler)\."
)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_private_parts_of_ray_and_uvicorn_are_touched_in_their_adapters(module: pathlib.Path) -> None:
    if name_of(module) in INTERNALS:
        return
    for line, name in imports_of(module):
        assert not _OF_OTHERS.match(f"{name}."), f"{name_of(module)}:{line} imports {name}"
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            assert not _OF_OTHERS.match(f"{dotted}."), f"{name_of(module)}:{node.lineno} has {dotted}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            assert not _OF_OTHERS.match(node.value), f"{name_of(module)}:{node.lineno} names {node.value}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_the_environment_is_read_in_one_place_or_where_a_line_says_why(module: pathlib.Path) -> None:
    if name_of(module) == "settings.py":
        return
    lines = module.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
        ):
            continue
        if node.attr in ("environ", "getenv", "putenv"):
            near = lines[max(0, node.lineno - 4) : node.lineno]
            assert any("#" in line for line in near), f"{name_of(module)}:{node.lineno} says no why"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_modules_are_named_after_what_they_hold(module: pathlib.Path) -> None:
    assert module.stem not in _EMPTY_NAMES


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_modules_say_what_they_do(module: pathlib.Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert name_of(module) == "__main__.py" or ast.get_docstring(tree)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_functions_are_under_seventy_lines(module: pathlib.Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length < 70, f"{name_of(module)}:{node.lineno} {node.name} has {length} lines"


def test_scripts_of_jobs_are_short_and_stand_on_the_command_line() -> None:
    for script in sorted((ROOT / "jobs").glob("*.py")):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 60, script.name
