"""What we print for a shell is quoted for it: a name, a path or an example cannot become a command."""

import ast
import html
import json
import pathlib
import re
import subprocess

import pytest

import raymlops
from raymlops.serving.protocol import openapi

ROOT = pathlib.Path(raymlops.__file__).parent
_COMMAND = re.compile(
    r"(^|[\s`:(;])(raymlops [a-z-]+|curl|chmod|rm|kill|mkdir|unset|pip install|mlflow ui|"
    r"ray (start|stop|up|down|job|dashboard))( [^`;,\n]*)?$"
)
_QUOTED = {"quote", "join"}


def is_quoted(value: ast.expr) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        return value.func.attr in _QUOTED
    # Numbers, and texts that are chosen from a list.
    return isinstance(value, ast.Name) and value.id in (
        "number",
        "port",
        "dashboard_port",
        "version",
        "kind",
        "host",
    )


def find_unquoted(source: str) -> list[str]:
    """Values in texts where a command stands before them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        text = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                if _COMMAND.search(text) and not is_quoted(part.value):
                    found.append(f"{node.lineno}: {text[-60:]}{{{ast.unparse(part.value)}}}")
                text += "x"
    return found


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_value_in_a_command_that_is_printed_is_quoted(path: pathlib.Path) -> None:
    assert not find_unquoted(path.read_text(encoding="utf-8"))


def test_the_rule_sees_what_it_is_for() -> None:
    assert find_unquoted('f"run: chmod 600 {path}"')
    assert find_unquoted('f"see `raymlops gate {uri}`"')
    assert not find_unquoted('f"run: chmod 600 {shlex.quote(path)}"')


@pytest.mark.parametrize(
    "name",
    [
        "it's",
        "a b",
        "$(touch hacked)",
        "`touch hacked`",
        "a;touch hacked",
        'q"q',
        "x'; touch hacked; '",
        "ü\n",
    ],
)
def test_the_page_of_an_endpoint_gives_a_curl_that_any_shell_runs_as_meant(
    tmp_path: pathlib.Path, name: str
) -> None:
    example = {"inputs": [{"name": name, "data": [name]}]}
    operation = {
        "summary": "",
        "requestBody": {"content": {"application/json": {"example": example}}},
    }
    document = {
        "info": {"title": name, "description": name},
        "servers": [{"url": "/"}],
        "paths": {f"/v2/models/{name}/infer": {"post": operation}},
    }
    page = openapi.render_page(document)
    command = html.unescape(re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1])  # type: ignore[index]
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nfor last; do :; done\nprintf %s "$last" > said\n')
    curl.chmod(0o755)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert json.loads((tmp_path / "said").read_text()) == example
    assert not (tmp_path / "hacked").exists()
