"""Composes `init`: a table's files, its profile, the roles of its columns, a split, and the spec that follows."""

import dataclasses
import pathlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from raymlops.data.profiling import files, reading, roles, split_choice, target
from raymlops.errors import SpecError
from raymlops.evaluation import table_page
from raymlops.lifecycle.cluster import join_cluster
from raymlops.lifecycle.init import relations, spec_text
from raymlops.settings import Settings
from raymlops.specs.document import parse_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.table_profile import Conclusion, TableProfile


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A spec for a table, and what it was concluded from."""

    text: str
    spec: ExperimentSpec
    profile: TableProfile
    target: target.Target
    columns: Mapping[str, Conclusion]
    split: split_choice.SplitChoice
    seconds: Mapping[str, float]

    @property
    def page(self) -> str:
        """The profile of the table, as HTML."""
        how = f"by {self.split.by}" + (f" of {self.split.column}" if self.split.column else "")
        facts = {
            "task": f"{self.target.task}: {self.target.why}",
            "positive class": "" if self.target.positive is None else str(self.target.positive),
            "split": f"{how}: {self.split.why}",
            "repeated rows": f"{self.profile.duplicates:,}",
            "rows that nearly repeat": f"{self.profile.near_duplicates:,}",
            "reader": self.spec.dataset.reader,
        }
        return table_page.write_table_page(
            self.profile, self.columns, self.target.column, self.target.task, facts, self.unsure
        )

    @property
    def unsure(self) -> tuple[str, ...]:
        """What a person should look at, as marked in the text."""
        return tuple(re.findall(r"# unsure: (.*)", self.text))


def propose(
    data: str,
    column: str,
    settings: Settings,
    *,
    name: str | None = None,
    reader: str | None = None,
    task: target.Task | None = None,
    options: Mapping[str, Any] | None = None,
    page: str = "its profile",
    tell: Callable[[str], None] = lambda line: None,
) -> Proposal:
    """Look at a sample of a table, and at the whole of it.

    Raises NotFoundError and DataError for a table that cannot be read, or a column that can be no target.
    """
    files.require_reader(reader)
    found = files.find_files(data, reader)
    join_cluster(settings)
    start = time.monotonic()
    tell(f"Reading {data}")
    read = reading.read_profile(found, options or {})
    scanned = time.monotonic()
    goal = target.find_target(read.profile, column, task)
    related = relations.relate(read.profile, read.sample, goal)
    concluded = roles.conclude(read.profile, goal, related)
    everywhere = relations.find_everywhere(read.profile, read.sample, goal)
    split = split_choice.choose_split(read.profile, goal, concluded, everywhere=everywhere)
    name = name or to_name(data)
    text = spec_text.write_spec(name, read.table, read.profile, goal, concluded, split, read.unsure, page)
    spec = parse_document(text, ExperimentSpec, source="the proposed spec")
    seconds = {"scan": scanned - start, "conclude": time.monotonic() - scanned}
    return Proposal(text, spec, read.profile, goal, concluded, split, seconds)


def to_name(data: str) -> str:
    """A name for the experiment and the model, from that of the file."""
    last = data.partition("::")[0].removeprefix("zip://").rstrip("/").rpartition("/")[2]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", last.split(".")[0].replace("*", "")).strip("_-")
    stem = stem if re.match(r"[A-Za-z]", stem) else f"model_{stem}".rstrip("_")
    return stem[:63]


def write_new(path: pathlib.Path, text: str, *, overwrite: bool) -> None:
    """Raises SpecError if the file exists, since a person may have edited it."""
    if path.exists() and not overwrite:
        raise SpecError(
            f"{str(path)!r} exists, and may have been edited; give another --output, or --overwrite"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"Cannot write {str(path)!r}: {error.strerror or error}; give another --output"
        ) from None
