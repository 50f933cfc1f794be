"""The commands of README and docs, as a reader would copy them, and what holds each of them."""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLES = [*PAGES, ROOT / "clusters/README.md", ROOT / "SECURITY.md"]

MARKS = ("# needs a cloud", "# needs a package index")
"""What a reader sees beside a command that no test runs."""

RUN_HERE = (
    "raymlops check", "raymlops schema", "raymlops keys", "raymlops history --key", "raymlops cluster token",
    "raymlops cluster manifest cluster", "raymlops graph",
)  # fmt: skip
"""Commands that tests/unit/test_documented_commands.py runs, by their first words."""

RUN_ON_A_CLUSTER = (
    "python make_table.py", "raymlops search cells.yaml", "raymlops predict models:/", "raymlops evaluate",
    "raymlops gate", "raymlops promote", "raymlops history", "raymlops rollback", "raymlops lineage", "raymlops diff",
    "raymlops register", "raymlops reproduce models:/flights/4",
)  # fmt: skip
"""Commands that tests/survival/test_lifecycle_commands.py runs, of all pages, for the model of the quick start;
tests/ray/test_quick_start.py runs the first of them with every `make test`."""

HELD: dict[str, str] = {
    "raymlops convert": "test_models_of_xgboost_answer_as_a_version_as_they_did",
    "raymlops init": "test_the_command_writes_a_spec_that_is_valid_and_lists_what_it_is_unsure_of",
    "raymlops search jobs/specs/flights.yaml": "test_the_main_job_runs_to_its_end",
    "raymlops serve serve_configs/flights.yaml --check":
        "test_the_main_job_runs_to_its_end",
    "make run": "test_the_main_job_runs_to_its_end",
    "raymlops train": "test_the_same_command_goes_on_after_a_killed_worker_and_a_killed_driver",
    "raymlops serve": "test_a_promoted_version_is_served_under_its_number",
    "raymlops deploy serve_configs/flights.yaml --print":
        "test_a_promoted_version_is_served_under_its_number",
    "raymlops deploy serve_configs/flights.yaml --remove": "test_what_was_taken_away_does_not_come_back",
    "raymlops deploy": "test_every_method_of_tritons_clients_is_called_against_two_applications",
    "raymlops weights": "test_weights_change_without_a_restart_and_stay_with_the_next_deployment",
    "raymlops predict": "test_graph_offline.py",
    "raymlops drift": "test_a_version_knows_what_its_rows_were_and_says_what_changed_in_others",
    "raymlops monitor": "test_an_application_is_shown_once_as_json_as_a_page_and_by_exit_code",
    "raymlops reference": "test_a_version_knows_what_its_rows_were_and_says_what_changed_in_others",
    "raymlops alarms": "test_alarms_are_listed_shown_acknowledged_silenced_and_closed",
    "raymlops notify": "test_the_command_says_what_each_channel_needs_and_how_it_took_a_test",
    "raymlops submit": "test_a_search_runs_as_a_job_and_leaves_its_run",
    "ray job submit": "test_a_search_runs_as_a_job_and_leaves_its_run",  # which sends the same to the same server
    "raymlops doctor": "test_the_doctor_asks_the_nodes",
    "raymlops cluster start": "test_a_killed_head_serves_again_what_was_pinned_and_a_search_goes_on",
    "raymlops tracking-server": "test_nobody_gets_in_without_the_password",
    "mlflow run": "test_mlflow_run_searches_and_its_run_is_the_parent_of_ours",
    "curl localhost:8000/docs": "test_example_search.py",
    "curl localhost:8000/invocations/": "test_mlflow_codec.py",
    "curl localhost:8000/invocations": "test_mlflows_shapes_are_answered",
    "curl localhost:8000/v2/models/":
        "test_each_of_two_applications_tells_its_own_address_and_its_commands_are_answered",
    "make serve SERVING=": "test_each_file_says_by_what_command_it_runs_from_a_bare_clone",
    ".venv/bin/python -m examples.ocr.client": "test_a_page_is_read_the_same_fused_in_replicas_of_its_own_and_offline",
    "make docs": "test_the_site_is_built_strictly_and_fetches_nothing_from_other_hosts",
    "make .venv/installed": ".ci/run",
    "make test": ".ci/run",
    "sudo make packages": ".ci/run",
    # These run tests themselves.
    ".venv/bin/python -m pytest": "test_the_targets_of_make_exist",
    "make": "test_the_targets_of_make_exist",
    # What readers do to their own shell and clone.
    ".venv/bin/pre-commit install": ".pre-commit-config.yaml",
    "git clone": "test_the_targets_of_make_exist",
    "cd": "test_the_targets_of_make_exist",
    "mkdir": "test_the_targets_of_make_exist",
    "source .venv/bin/activate": "test_the_targets_of_make_exist",
}  # fmt: skip
"""First words of a command -> the test that runs such a command, or a file of tests that are all about it, or a file of
the repository that runs it. The longest that fits counts."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: pathlib.Path
    line: int
    text: str
    comment: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def read_commands(page: pathlib.Path) -> Iterator[Command]:
    """Those in blocks of `sh`, one a line; `a && b` are two."""
    language = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            language = line.removeprefix("```").strip() if language is None else None
        elif language == "sh" and line.strip():
            text, _, comment = _split_comment(line)
            for part in text.split(" && "):
                yield Command(page, number, " ".join(part.split()), comment)


def _split_comment(line: str) -> tuple[str, str, str]:
    found = re.search(r"\s#\s", line)
    return (
        (line[: found.start()].strip(), "#", line[found.start() :].strip())
        if found
        else (line.strip(), "", "")
    )


def read_inline(page: pathlib.Path) -> Iterator[Command]:
    """Commands of ours that stand in a sentence or a table, as `raymlops VERB ...`; some words are for the reader to
    fill in."""
    language = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            language = None if language is not None else line
        elif language is None:
            for text in re.findall(r"`(raymlops [^`]*)`", line):
                yield Command(page, number, text, "")


def fits(command: Command, words: str) -> bool:
    """Whether a command begins with these words, with or without the folder of the environment."""
    texts = (command.text, command.text.removeprefix(".venv/bin/"))
    return any(
        text == words or text.startswith(words if words[-1] in "=/" else f"{words} ") for text in texts
    )


QUICK_START = ROOT / "docs/quickstart.md"
FEWER = ("--set", "search.trials=1", "--set", "training.epochs=2", "--set", "gate.bootstrap=200", "--quiet")
"""So that a search takes seconds."""
STAND_INS = {
    "jobs/specs/flights.yaml": "cells.yaml",
    "december.parquet": "cells.csv",
    "new.parquet": "cells.csv",
    "--keep id": "--keep target",
    "models:/flights@challenger": "models:/cells/2",
    "models:/flights/3": "models:/cells/1",
    "models:/flights/4": "models:/cells/2",
    "flights 4": "cells 2",
    "flights": "cells",
}
"""What pages call their model, data and versions -> what the quick start has in their place."""


def write_quick_start(folder: pathlib.Path) -> None:
    """The script and the spec that the quick start has its readers save."""
    text = QUICK_START.read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (spec,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (folder / "make_table.py").write_text(script)
    (folder / "cells.yaml").write_text(spec)


def commands_on_a_cluster(pages: Sequence[pathlib.Path]) -> list[Command]:
    """Those of RUN_ON_A_CLUSTER, each once, in words that fit the model of the quick start."""
    found: dict[str, Command] = {}
    for page in pages:
        for command in read_commands(page):
            marked = any(command.comment.startswith(mark) for mark in MARKS)
            if marked or not any(fits(command, words) for words in RUN_ON_A_CLUSTER):
                continue
            text = command.text
            for theirs, ours in STAND_INS.items():
                text = text.replace(theirs, ours)
            found.setdefault(text, Command(page, command.line, text, command.comment))
    return list(found.values())


def find_holder(command: Command) -> str | None:
    """What holds a command: a mark, a test that runs it, or None."""
    if any(command.comment.startswith(mark) for mark in MARKS):
        return "mark"
    if any(fits(command, words) for words in RUN_HERE):
        return "test_cheap_commands_run_as_they_stand"
    if any(fits(command, words) for words in RUN_ON_A_CLUSTER):
        return "test_commands_of_the_lifecycle_run_in_the_order_of_the_pages"
    known = [words for words in HELD if fits(command, words)]
    return HELD[max(known, key=len)] if known else None
