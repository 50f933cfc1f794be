"""Environments of their own for packages that do not go together with ours: a file of requirements each, made once, and
again when the file changes."""

import hashlib
import os
import pathlib
import shutil
import site
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
REQUIREMENTS = pathlib.Path(__file__).parent / "requirements"
INSIDE = pathlib.Path(__file__).parent / "inside"
SCRIPTS = pathlib.Path(__file__).parent / "scripts"


def find_python(name: str, *, beside: bool = False) -> pathlib.Path:
    """The interpreter of the environment of `requirements/NAME.txt`, which also has the packages of this one if it is
    `beside` them."""
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = ROOT / ".venv-extras" / name
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    made = folder / "made"
    if not made.is_file() or made.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if beside:
            (inner,) = (folder / "lib").glob("python*/site-packages")
            (inner / "beside.pth").write_text("\n".join(site.getsitepackages()))
        pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        made.write_text(digest)
    return folder / "bin" / "python"


def run_tests(environment: str, file: str, seconds: float = 600) -> None:
    """Runs the tests of `inside/FILE` by the interpreter of an environment that also has our packages."""
    command = [str(find_python(environment, beside=True)), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(INSIDE / file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def run_script(environment: str, script: str, *arguments: str, seconds: float = 300) -> str:
    """What `scripts/SCRIPT` prints, run by the interpreter of an environment, which has none of our packages."""
    command = [str(find_python(environment)), "-I", str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout
