"""The site is built without a complaint, asks no other host for anything, and leaves nothing out that the code has."""

import ast
import html.parser
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pydantic
import pytest
import yaml

from raymlops.cli import VERBS
from raymlops.specs.document import parse_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import NODE_DOCUMENTS
from raymlops.specs.notify import NotifySpec
from raymlops.specs.serving import ServingSpec
from reference_pages import PAGES, commands, documents, drawings, operations

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted((ROOT / "raymlops").rglob("*.py"))
MODELS = documents.models_below(
    [ExperimentSpec, ServingSpec, GraphSpec, NotifySpec, *NODE_DOCUMENTS.values()]
)


class Fetched(html.parser.HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag)
        if name and given.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.found.add(given.get(name) or "")


def test_the_site_is_built_strictly_and_fetches_nothing_from_other_hosts(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    assert {"index.html", "quickstart.html", "operations.html", "reference/commands.html"} <= pages
    for page in sorted(pages):
        reader = Fetched()
        reader.feed((tmp_path / page).read_text(encoding="utf-8"))
        assert not {one for one in reader.found if re.match(r"(https?:)?//", one)}, page


def texts_of(module: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def page() -> str:
    return PAGES["operations.md"]()


def test_every_metric_is_in_the_page_of_operations(page: str) -> None:
    pattern = re.compile(r"(raymlops|nv_inference|process)_[a-z_]*[a-z]")
    no_metrics = {"raymlops_graph"}  # what metadata call the platform of a graph
    found = {text for module in MODULES for text in texts_of(module) if pattern.fullmatch(text)} - no_metrics
    assert len(found) > 30
    assert {name for name in found if f"`{name}`" not in page and f"`{name}_total`" not in page} == set()
    assert "RequestsFail" in page


def test_every_environment_variable_is_in_the_page_of_operations(page: str) -> None:
    pattern = re.compile(r"(RAYMLOPS|RAY|MLFLOW|TUNE|GIT_PYTHON|FORWARDED)_\w*[A-Za-z0-9]")
    found = {text for module in MODULES for text in texts_of(module) if pattern.fullmatch(text)}
    assert {"RAYMLOPS_HOME", "RAYMLOPS_KEY", "RAY_SERVE_ENABLE_HA_PROXY"} < found
    assert {name for name in found if f"`{name}`" not in page} == set()


def test_every_port_is_in_the_page_of_operations(page: str) -> None:
    found = {
        number
        for path in [*MODULES, ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for line in path.read_text(encoding="utf-8").splitlines()
        for number in re.findall(r"(?:localhost|127\.0\.0\.1):(\d{4,5})", line)
        + (re.findall(r"(?<![\d_.])[1-9]\d{3,4}(?![\d_.])", line) if PORT.search(line) else [])
    }
    assert {"8000", "8265", "6379", "8404"} <= found
    assert {number for number in found - NO_PORTS if number not in page} == set()


PORT = re.compile(r"\bports?\b|_PORT", re.IGNORECASE)
NO_PORTS = {"65535", "65536", "1024", "4711"}
"""Numbers of lines that speak of ports, and are none that is listened on."""


def test_every_folder_of_the_home_is_in_the_page_of_operations(page: str) -> None:
    found = {
        node.right.value
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant)
        and ast.unparse(node.left) in ("home", "settings.home", "Settings.from_env().home")
        and not str(node.right.value).startswith(".")
    }  # fmt: skip
    assert {"mlflow.db", "keys", "records"} <= found
    assert {name for name in found if f"`$RAYMLOPS_HOME/{name}`" not in page} == set()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_each_part_of_a_spec_and_each_key_has_a_sentence_in_the_reference(
    model: type[documents.Document],
) -> None:
    assert documents.docstring_of(model), f"{model.__name__} needs a docstring"
    for name, field in model.model_fields.items():
        assert documents.meaning_of(field), f"{model.__name__}.{name} needs a description"


def test_the_reference_has_every_command_and_option_that_is_not_hidden() -> None:
    text = commands.write_page()
    listed = list(commands.walk())
    assert {path[0] for path, _ in listed} == set(VERBS)
    for path, command in listed:
        assert f"# {' '.join(path)} {{ #" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in text, (path, parameter.name)


def test_defaults_and_reasons_are_those_of_the_code() -> None:
    variables = {row[0]: row for row in operations.serve_rows()}
    assert "vicorn would believe" in variables["`FORWARDED_ALLOW_IPS`"][2]
    settings = {row[0]: row[1] for row in operations.setting_rows()}
    assert "atabases, artifacts and checkpoints" in settings["`RAYMLOPS_HOME`"]
    assert "the name that is recorded with a version" in settings["`RAYMLOPS_USER`"].lower()


def test_the_drawings_are_those_that_the_code_draws() -> None:
    for name, draw in drawings.DRAWINGS.items():
        shown = (drawings.FOLDER / name).read_text(encoding="utf-8")
        assert shown == draw(), f"{name} is old; run: PYTHONPATH=docs python -m reference_pages.drawings"


def test_the_page_of_architecture_names_every_part_and_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    parts = {module.relative_to(ROOT / "raymlops").parts[0].removesuffix(".py") for module in MODULES}
    rooms = {path.parent.name for path in (ROOT / "raymlops/serving").glob("*/__init__.py")}
    named = {name for name in parts | rooms if f"`{name}`" in page or f"`{name}/" in page}
    assert (parts | rooms) - named - {"__init__", "__main__"} == set()


_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = [
    (page, language, text)
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", sorted({page for page, *_ in BLOCKS}), ids=lambda page: page.name)
def test_examples_in_pages_can_be_read(page: pathlib.Path) -> None:
    for of, language, text in BLOCKS:
        if of != page:
            continue
        if language == "python":
            ast.parse(text)
        if language == "yaml":
            value = yaml.safe_load(text)
            whole = {"name", "dataset", "features"} <= value.keys()
            if whole or "nodes" in value:
                parse_document(text, ExperimentSpec if whole else GraphSpec, source=page.name)
                continue
            for key, part in value.items():  # a part of a spec
                (field,) = [
                    one.model_fields[key] for one in (ExperimentSpec, ServingSpec) if key in one.model_fields
                ]
                pydantic.TypeAdapter(field.annotation).validate_python(part)


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "clusters/README.md"]
)
def test_links_of_the_repositorys_own_pages_lead_to_files(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link
