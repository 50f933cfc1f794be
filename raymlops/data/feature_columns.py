"""The columns that patterns of features stand for, in a table. Reads no rows."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from raymlops.errors import SpecError, unknown_name
from raymlops.specs.features import FeaturesSpec, is_pattern

GROUPS = ("numbers", "categories", "timestamps", "images", "texts")


def resolve_patterns(spec: FeaturesSpec, columns: Sequence[str], apart: Iterable[str] = ()) -> FeaturesSpec:
    """The features with patterns replaced by columns, in the table's order; `auto` is left.

    A pattern never stands for the target, a column that is named elsewhere, one under `exclude`, or one of `apart`.
    Raises SpecError for a pattern that no column matches, or a column that patterns of two groups match.
    """
    listed = {group: getattr(spec, group) for group in GROUPS}
    known = set(columns)
    named = {spec.target.column, *spec.columns, *apart}
    named |= {name for names in listed.values() for name in names if not is_pattern(name) or name in known}
    excluded = find_excluded(spec, columns)
    owner: dict[str, str] = {}
    found: dict[str, tuple[str, ...]] = {}
    for group, names in listed.items():
        taken: list[str] = []
        for name in names:
            if name in known or not is_pattern(name):
                taken.append(name)
                continue
            matched = [one for one in columns if fnmatch.fnmatchcase(one, name)]
            if not matched:
                raise SpecError(
                    f"features.{group}: no column matches {name!r}; {unknown_name('pattern', name, known)}"
                )
            for column in matched:
                if column in named or column in excluded or owner.get(column) == group:
                    continue
                if column in owner:
                    raise SpecError(
                        f"features.{group}: {name!r} matches {column!r}, and so does a pattern of {owner[column]}; "
                        "name the column in one of them, or exclude it"
                    )
                owner[column] = group
                taken.append(column)
        found[group] = tuple(taken)
    return spec.model_copy(update={**found, "exclude": (), "auto": spec.auto})


def find_excluded(spec: FeaturesSpec, columns: Sequence[str]) -> frozenset[str]:
    """The columns under `exclude`. Raises SpecError for a name that is no column."""
    excluded: set[str] = set()
    for name in spec.exclude:
        matched = {name} & {*columns} or ({*fnmatch.filter(columns, name)} if is_pattern(name) else set())
        if not matched and not is_pattern(name):
            raise SpecError(f"features.exclude: {unknown_name('column', name, columns)}")
        excluded |= matched
    return frozenset(excluded)


def add_columns(spec: FeaturesSpec, found: Mapping[str, Sequence[str]]) -> FeaturesSpec:
    """The features with the columns that `auto` found, by group."""
    return spec.model_copy(
        update={
            "auto": False,
            "exclude": (),
            **{group: (*getattr(spec, group), *names) for group, names in found.items()},
        }
    )
