"""Every command of README and docs is run by a test or says what it needs; all of them parse, and name files that are
there."""

import pathlib
import re
import shutil
from collections.abc import Iterator

import click
import pytest

from examples.models import make_all
from raymlops import cli
from tests.documented_commands import (
    HELD,
    MARKS,
    PAGES,
    ROOT,
    RUN_HERE,
    TABLES,
    Command,
    find_holder,
    fits,
    read_commands,
    read_inline,
)

COMMANDS = [command for page in PAGES for command in read_commands(page)]
OURS = [command for command in COMMANDS if command.words[0].endswith("raymlops")]
INLINE = [command for page in TABLES for command in read_inline(page)]


def test_every_command_is_held() -> None:
    assert len(COMMANDS) > 60
    assert [str(command) for command in COMMANDS if find_holder(command) is None] == []


def test_what_holds_a_command_is_there() -> None:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    known = {path.name for path in files} | {
        name
        for path in files
        for name in re.findall(
            r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    for words, holder in HELD.items():
        assert holder in known or (ROOT / holder).is_file(), f"{words}: {holder}"
        assert any(fits(command, words) for command in COMMANDS), f"no page has {words!r} any more"


def test_no_command_hides_in_a_block_that_is_not_marked_as_one() -> None:
    pattern = re.compile(r" {4}(\$ )?(raymlops|make|curl|python|pip|git|ray|mlflow|\.venv/bin)\b")
    for page in TABLES:
        for line in page.read_text(encoding="utf-8").splitlines():
            assert not pattern.match(line), f"{page.name}: put into a block of sh: {line.strip()}"


def parse(words: list[str]) -> None:
    """As click does, and run nothing. Raises click.ClickException."""
    command: click.Command = cli.raymlops
    context = click.Context(command, info_name="raymlops")
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        command = found
        context = click.Context(command, info_name=name, parent=context)
    if "--help" not in words and not isinstance(command, click.Group):
        command.make_context(command.name, list(words), parent=context.parent)


@pytest.mark.parametrize("command", OURS, ids=str)
def test_verbs_options_and_files_of_each_command_exist(command: Command) -> None:
    parse(command.words[1:])
    for word in command.words:
        if re.match(r"(jobs|serve_configs|examples|clusters|dashboards|docs)/", word):
            assert (ROOT / word).exists(), word


def test_commands_within_sentences_have_verbs_and_options_that_exist() -> None:
    assert len(INLINE) > 20
    for command in INLINE:
        words = [word for word in command.text.replace("|", " ").split() if word not in ("...", "raymlops")]
        kept = [word.strip("[],") for word in words]
        if not kept or kept[0] == kept[0].upper() or kept[0].startswith("-"):
            continue
        context = click.Context(cli.raymlops)
        found = cli.raymlops.get_command(context, kept[0])
        assert found is not None, str(command)
        if isinstance(found, click.Group) and len(kept) > 1 and kept[1].islower():
            found = found.get_command(click.Context(found), kept[1])
            assert found is not None, str(command)
        options = {
            name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        if found.name == "submit":
            options |= {"--resume", "--autoscaling"}  # of the verb that is sent
        for word in kept[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in {*options, "--help"}, str(command)


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in COMMANDS:
        if "make" in command.words[:2]:
            (target,) = [word for word in command.words if "=" not in word and word not in ("sudo", "make")]
            assert target in targets | {".venv/installed"}, str(command)


def test_marks_are_explained_to_the_reader() -> None:
    assert {mark for command in COMMANDS for mark in MARKS if command.comment.startswith(mark)} == set(MARKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A clone, as far as commands read it."""
    place = tmp_path_factory.mktemp("clone")
    for name in ("jobs", "serve_configs", "examples", "clusters"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cluster.yaml", place)
    return place


def test_cheap_commands_run_as_they_stand(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAYMLOPS_HOME", str(folder / "home"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
    list(
        make_all([pathlib.Path("serve_configs/graph_chain.yaml"), pathlib.Path("examples/ocr/serving.yaml")])
    )
    ran = dict.fromkeys(RUN_HERE, 0)
    for command in OURS:
        first = next((words for words in RUN_HERE if fits(command, words)), None)
        if first is None or "cells.yaml" in command.words:
            continue
        with pytest.raises(SystemExit) as ended:
            cli.main(command.words[1:])
        assert ended.value.code == 0, f"{command}\n{capsys.readouterr().err}"
        ran[first] += 1
    assert all(ran.values()), ran
    assert (folder / "raymlops.schema.json").is_file()
    assert (folder / "graph.svg").read_text().startswith("<svg")
