"""Composes `init`: a table's files, its profile, the roles of its columns, a split, and the spec that follows."""

import dataclasses
import pathlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from raymlops.data import row_keys
from raymlops.data.profiling import files, reading, roles, split_choice, target
from raymlops.errors import DataError, SpecError
from raymlops.evaluation import table_page
from raymlops.lifecycle.cluster import join_cluster
from raymlops.lifecycle.init import relations, spec_text
from raymlops.settings import Settings
from raymlops.specs.document import parse_document
from raymlops.specs.experiment import NAME, ExperimentSpec
from raymlops.table_profile import MODELLED, Conclusion, TableProfile


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
    _require_name(name or to_name(data))
    found = files.find_files(data, reader)
    join_cluster(settings)
    start = time.monotonic()
    tell(f"Reading {data}")
    read = reading.read_profile(found, options or {})
    scanned = time.monotonic()
    goal = target.find_target(read.profile, column, task)
    related = relations.relate(read.profile, read.sample, goal)
    concluded = roles.conclude(read.profile, goal, related)
    _require_features(data, read.profile, goal, concluded)
    everywhere = relations.find_everywhere(read.profile, read.sample, goal)
    split = split_choice.choose_split(read.profile, goal, concluded, everywhere=everywhere)
    name = name or to_name(data)
    text = spec_text.write_spec(name, read.table, read.profile, goal, concluded, split, read.unsure, page)
    spec = parse_document(text, ExperimentSpec, source="the proposed spec")
    seconds = {"scan": scanned - start, "conclude": time.monotonic() - scanned}
    return Proposal(text, spec, read.profile, goal, concluded, split, seconds)


def _require_features(
    data: str, read: TableProfile, goal: target.Target, concluded: Mapping[str, Conclusion]
) -> None:
    """Raises DataError if no column can be one, or one that could is not in all files."""
    used = roles.of_role(concluded, *MODELLED)
    row_keys.refuse_taken(concluded)
    for column in map(read.column, [goal.column, *used]):
        if column.absent:
            raise DataError(
                f"{data!r} has files with different columns: {column.name[:80]!r} is missing from those of "
                f"{column.absent:,} of {read.rows:,} rows; give files with the same columns, by a pattern such as "
                "'data/2024-*.csv', or add the column to the others"
            )
    if used:
        return
    others = [(name, one) for name, one in concluded.items() if one.role != "target"]
    told = "; ".join(f"{name[:40]} is left out as {one.role} ({one.why[:60]})" for name, one in others[:4])
    more = f"; and {len(others) - 4:,} more" if len(others) > 4 else ""
    raise DataError(
        f"{data!r} has no column to predict {goal.column!r} from: {told or 'it is the only one'}{more}; give a table "
        "with others, or write a spec that lists the features"
    )


def _require_name(name: str) -> None:
    """Raises SpecError."""
    if not re.fullmatch(NAME, name):
        raise SpecError(
            f"--name {name!r} cannot name an experiment; expected a letter, then up to 62 letters, digits, dashes or "
            "underscores"
        )


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
