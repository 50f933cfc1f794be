"""The features of a spec with `auto` or patterns, resolved by its table; recorded with the run as if they had been
listed."""

from collections.abc import Callable, Mapping

from raymlops.data import feature_columns, row_keys
from raymlops.data.profiling import roles, table_scan
from raymlops.data.profiling import target as targets
from raymlops.data.split_rows import SplitRows, describe_source
from raymlops.errors import DataError, SpecError
from raymlops.lifecycle.init import relations
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.features import FeaturesSpec
from raymlops.table_profile import Conclusion, TableProfile

_EXPECTED = 100_000


def resolve_features(
    spec: ExperimentSpec, rows: SplitRows, tell: Callable[[str], None] = lambda line: None
) -> ExperimentSpec:
    """The spec with its features listed; the same if they are. `auto` looks at the training rows only.

    Raises SpecError for patterns that match nothing, DataError for a table without rows or features.
    """
    if not spec.features.is_open:
        return spec
    dataset = rows.of("train")
    schema = rows.dataset.schema(fetch_if_missing=True)
    if schema is None:
        raise DataError(f"{describe_source(rows.table)} has no rows")
    columns = [name for name in schema.names if name not in row_keys.COLUMNS]
    apart = {getattr(spec.split, "column", "")} if spec.split.by == "group" else set()
    features = feature_columns.resolve_patterns(spec.features, columns, apart)
    if features.auto:
        scanned = table_scan.scan_table(
            dataset, describe_source(rows.table), expected=_EXPECTED, apart=frozenset()
        )
        profile, sample = table_scan.finish(scanned, describe_source(rows.table))
        task = spec.features.target.task
        goal = targets.find_target(profile, spec.features.target.column, None if task == "auto" else task)
        concluded = roles.conclude(profile, goal, relations.relate(profile, sample, goal))
        left = feature_columns.find_excluded(spec.features, columns) | apart
        features = feature_columns.add_columns(features, _find_columns(features, profile, concluded, left))
        _tell_left_out(features, concluded, tell)
    if not features.by_column():
        raise DataError(f"features: no column of {describe_source(rows.table)} is left; list some by name")
    try:
        features.check_input_names()
    except ValueError as error:
        raise SpecError(f"features: {error}; or leave it out by features.exclude") from None
    try:
        features.check_monotonic(spec.training.monotonic)
    except ValueError as error:
        raise SpecError(f"training.monotonic: {error}") from None
    groups = {group: len(getattr(features, group)) for group in feature_columns.GROUPS}
    tell("Features: " + ", ".join(f"{count} {group}" for group, count in groups.items() if count))
    return spec.model_copy(update={"features": features})


def _find_columns(
    features: FeaturesSpec,
    profile: TableProfile,
    concluded: Mapping[str, Conclusion],
    left: set[str] | frozenset[str],
) -> dict[str, list[str]]:
    """The columns that are not named, by group; booleans that are texts are categories."""
    named = {features.target.column, *features.by_column(), *left}
    found: dict[str, list[str]] = {group: [] for group in feature_columns.GROUPS}
    for column in profile.columns:
        role = concluded[column.name].role
        if column.name in named:
            continue
        if role in ("category", "boolean") and column.kind != "boolean":
            found["categories"].append(column.name)
        elif role in ("number", "boolean") and column.kind in ("number", "integer", "boolean"):
            found["numbers"].append(column.name)
        elif role == "timestamp" and column.kind == "timestamp":
            found["timestamps"].append(column.name)
        elif role == "image":
            found["images"].append(column.name)
        elif role == "prose":
            found["texts"].append(column.name)
    return found


def _tell_left_out(
    features: FeaturesSpec, concluded: Mapping[str, Conclusion], tell: Callable[[str], None]
) -> None:
    used = {features.target.column, *features.by_column()}
    left = [f"{name} ({one.role}: {one.why})" for name, one in concluded.items() if name not in used]
    if left:
        more = f" and {len(left) - 12} more" if len(left) > 12 else ""
        tell(f"Left out of the features: {'; '.join(left[:12])}{more}")
