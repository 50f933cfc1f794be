"""Makes the models that the files of serve_configs/ and examples/ name, where they are not there yet.

python -m examples.models                                   of all files
python -m examples.models serve_configs/graph_chain.yaml    of one

Files are written to the path that is named, below the working directory; versions are registered under $RAYMLOPS_HOME,
or wherever MLFLOW_TRACKING_URI says, without the evidence that a search leaves. `models:/flights@champion` comes from
a small search, and any later one replaces it.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator

import onnx

from examples import digits, tables
from examples.ocr.models import make_detector, make_recogniser
from raymlops.errors import NotFoundError, UserError
from raymlops.settings import Settings

ROOT = pathlib.Path(__file__).parents[1]
FILES: dict[str, Callable[[], onnx.ModelProto]] = {
    "models/small.onnx": lambda: tables.make_mlp(0, outputs=1),
    "models/expensive/model.onnx": lambda: tables.make_mlp(4, width=2048, outputs=1),
    "models/embed.onnx": lambda: tables.make_mlp(1),
    "models/refine.onnx": lambda: tables.make_mlp(2),
    "models/judge.onnx": lambda: tables.make_mlp(3, outputs=1),
    "models/digits_small.onnx": lambda: digits.classify(200),
    "models/digits_large.onnx": lambda: digits.classify(1500),
    "models/detect.onnx": digits.detect,
    "models/crop.onnx": digits.crop,
    "models/ocr_detect.onnx": make_detector,
    "models/ocr_recognise.onnx": make_recogniser,
    **{f"models/customers/c{i}.onnx": (lambda i=i: tables.make_mlp(i, outputs=1)) for i in range(6)},  # type: ignore[misc]
}
REGISTERED: dict[str, dict[str, float]] = {
    "flights-small": {"champion": 0.25, "challenger": 0.3},
    "flights-wide": {"champion": 0.3},
}
"""Name -> alias -> what a flight's probability of being late usually is."""
SEARCH = ["jobs/specs/flights.yaml", "--set", "search.trials=1", "--set", "training.epochs=1"]


def main() -> None:
    given = [pathlib.Path(name) for name in sys.argv[1:]]
    if any(str(name).startswith("-") for name in given):
        print(__doc__)
        return
    files = given or [*sorted(ROOT.glob("serve_configs/*.yaml")), ROOT / "examples/ocr/serving.yaml"]
    try:
        for told in make_all(files):
            print(told, flush=True)
    except UserError as error:
        sys.exit(str(error))


def make_all(files: Iterable[pathlib.Path]) -> Iterator[str]:
    """Make what these files name; yields a line for each thing that was made."""
    settings = Settings.from_env()
    named = dict.fromkeys(name for file in files for name in find_named(file))
    for name in named:
        if name.startswith("models:/"):
            yield from _register(name, settings)
        elif name == "keys.yaml":
            yield from _add_key(pathlib.Path(name))
        else:
            yield from _write(name)


def find_named(file: pathlib.Path) -> Iterator[str]:
    """The files, versions and keys of ours that a serving file names; of a folder all that is in it."""
    if file.suffix not in (".yaml", ".yml"):  # a model itself
        return
    if not file.is_file():
        raise NotFoundError(f"No file {str(file)!r}")
    text = re.sub(r"(^|\s)#.*", "", file.read_text(encoding="utf-8"))
    for name in re.findall(r"models:?/[\w./@-]+|keys\.yaml", text):
        if name.startswith("models:/") or name == "keys.yaml" or name in FILES:
            yield name
        else:
            yield from (known for known in FILES if known.startswith(f"{name.rstrip('/')}/"))


def _write(name: str) -> Iterator[str]:
    path = pathlib.Path(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name]().SerializeToString())
        yield f"{name}: made"


def _register(uri: str, settings: Settings) -> Iterator[str]:
    from raymlops.tracking.registry import resolve

    try:
        resolve(uri, settings)
        return
    except NotFoundError:
        pass
    name, _, alias = uri.removeprefix("models:/").partition("@")
    if name == "flights":
        yield f"{uri}: searching for it with one trial; `make run` finds a better one"
        command = [sys.executable, "-m", "raymlops", "search", *SEARCH, "--why", "an example", "--quiet"]
        subprocess.run(command, cwd=ROOT, check=True)
        return
    if alias not in REGISTERED.get(name, {}):
        return
    from raymlops.lifecycle.govern.register import promote_version, register_file

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.onnx"
        file.write_bytes(tables.flights(REGISTERED[name][alias]).SerializeToString())
        version, _ = register_file(file, name, "an example", settings)
    promote_version(name, version, alias, "an example", settings, force=True)
    yield f"{uri}: version {version} was registered"


def _add_key(path: pathlib.Path) -> Iterator[str]:
    from raymlops.serving.transport.api_keys import make_key
    from raymlops.serving.transport.key_files import write_keys

    if path.exists():
        return
    token, key = make_key("my-app", ("infer", "view"))
    write_keys(path, [key])
    yield f"{path}: made, with the key {token} of my-app; RAYMLOPS_KEY={token} is what --check asks with"


if __name__ == "__main__":
    main()
