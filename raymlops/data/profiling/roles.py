"""What each column of a profiled table is to a model: rules over profiles and relations to the target, one function a
rule, tried in order. Reads no rows."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping

from raymlops.data.profiling.target import Target
from raymlops.table_profile import ColumnProfile, Conclusion, Role, TableProfile

LEAK = 0.99
"""ROC AUC, R2 or share of errors removed, from which on one column alone is taken for the target in another form."""
_SUSPICIOUS = 0.95
_SENTINELS = (
    -1.0,
    -9.0,
    -99.0,
    -999.0,
    -9999.0,
    -99999.0,
    99.0,
    999.0,
    9999.0,
    99999.0,
    999999.0,
    -1e20,
    1e20,
)
_ID_NAME = re.compile(
    r"(^|[_ .\-])(id|ids|uuid|guid|key|idx|index|rownames?|row|row_?num(ber)?|seqn?|seq_?no|no|nr|serial)$"
    r"|[a-z]I[Dd]$|^unnamed"
    r"|^$|^x$|^obs$|^(ssn|isbn|email|e-mail|phone|name|url|hash)$|(^|_)(url|hash|email|phone)$",
    re.IGNORECASE,
)
_GROUP_NAME = re.compile(
    r"(^|[_ .\-])(id|ids|uuid|guid|key|subject|patient|person|customer|client|user|account|household|family|session"
    r"|member|player|driver|vin)$|[a-z]I[Dd]$",
    re.IGNORECASE,
)
_CODE_NAME = re.compile(
    r"(^|[_ .\-])(code|zip|zipcode|postcode|postal|fips|type|class|category|kind|region|status|mode|group"
    r"|id|store|dept|department|sector|cluster)$",
    re.IGNORECASE,
)
_CALENDAR = re.compile(
    r"(^|[_ .\-])(month|mnth|weekday|dow|hour|hr|season|quarter|day_of_week|dayofweek)$", re.IGNORECASE
)
_BOOLEAN_WORDS = (
    {"yes", "no"}, {"y", "n"}, {"true", "false"}, {"t", "f"}, {"on", "off"},
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Relations:
    """What a sample says of each column and the target; see evaluation/leakage.py for the measure."""

    alone: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """With a mean for each value, or for each hundredth of the rows."""
    straight: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The same by the order of numbers only."""
    sums: tuple[str, ...] = ()
    """Columns of which the target is a weighted sum."""
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Column -> another that has the same information."""


@dataclasses.dataclass(frozen=True)
class _Seen:
    column: ColumnProfile
    table: TableProfile
    target: Target
    relations: Relations


def conclude(table: TableProfile, target: Target, relations: Relations) -> dict[str, Conclusion]:
    """Column -> its role. The target's own is `target`."""
    found = {}
    for column in table.columns:
        seen = _Seen(column, table, target, relations)
        if column.name == target.column:
            found[column.name] = Conclusion("target", target.why, target.unsure)
            continue
        concluded = next(answer for rule in _RULES if (answer := rule(seen)) is not None)
        relation = relations.alone.get(column.name)
        if (
            concluded.role in ("number", "category", "boolean")
            and not concluded.unsure
            and (relation or 0) > _SUSPICIOUS
        ):
            told = (
                f"{column.name} alone predicts {target.column} almost ({relation:.3f}); is it known before?"
            )
            concluded = dataclasses.replace(concluded, unsure=told)
        found[column.name] = dataclasses.replace(concluded, relation=relation)
    return found


def _nothing(seen: _Seen) -> Conclusion | None:
    if not seen.column.present:
        return Conclusion("constant", "no value in any row")
    if seen.column.kind == "other":
        return Conclusion("unusable", f"{seen.column.stored}, which no learner takes")
    return None


def _unnamed(seen: _Seen) -> Conclusion | None:
    """After ids, which programs write without a name."""
    if seen.column.name:
        return None
    told = "to use the column without a name, give it one: dataset.options.read_options.column_names"
    return Conclusion("unusable", "it has no name", told)


def _image(seen: _Seen) -> Conclusion | None:
    return Conclusion("image") if seen.column.kind == "image" else None


def _constant(seen: _Seen) -> Conclusion | None:
    if seen.column.distinct > 1:
        return None
    value = seen.column.top[0][0] if seen.column.top else ""
    shown = repr(value[:40]) if isinstance(value, str) else f"{value:g}"
    missing = f" or missing in {seen.column.nulls:,} rows" if seen.column.nulls else ""
    if seen.column.nulls:
        told = f"whether {seen.column.name} is missing may mean something"
        return Conclusion("constant", f"always {shown}{missing}", told)
    return Conclusion("constant", f"always {shown}")


def _twin(seen: _Seen) -> Conclusion | None:
    if seen.column.twin == seen.target.column:
        return Conclusion("leak", f"the same values as {seen.target.column}")
    if seen.column.twin:
        return Conclusion("duplicate", f"the same values as {seen.column.twin}")
    return None


def _leak(seen: _Seen) -> Conclusion | None:
    name = seen.column.name
    if seen.relations.alone.get(name, 0) >= LEAK:
        measure = {"binary": "ROC AUC", "regression": "R2"}.get(seen.target.task, "share of errors removed")
        value = seen.relations.alone[name]
        told = f"{name} may be known only after {seen.target.column}; list it under features if not"
        return Conclusion("leak", f"alone it predicts {seen.target.column}: {measure} {value:.3f}", told)
    if name in seen.relations.sums:
        parts = " and ".join(seen.relations.sums)
        told = f"{name} may be known only after {seen.target.column}; list it under features if not"
        return Conclusion("leak", f"{seen.target.column} is a sum of {parts}", told)
    return None


def _id(seen: _Seen) -> Conclusion | None:
    column = seen.column
    share = column.distinct / max(column.present, 1)
    named = bool(_ID_NAME.search(column.name))
    if column.text is not None and column.text.formats:
        return None
    if column.counts_rows and column.rows > 20:
        told = f"{column.name} rises by one from row to row, so that it is taken for their number"
        return Conclusion("id", "it numbers the rows", "" if named else told)
    if share < 0.95 or column.present < 20 or column.kind in ("timestamp", "boolean", "number"):
        return None
    if column.kind == "integer":
        spread = (column.numbers.max - column.numbers.min) if column.numbers else 0
        if named or (column.order and spread < 3 * column.rows) or spread > 1e9 * column.rows:
            return Conclusion("id", "nearly each row has its own")
        return None
    text = column.text
    if text is None or text.written or text.formats or text.image_paths > 0.9 or text.words > 3:
        return None
    told = "" if named else f"{column.name} differs in {share:.0%} of the rows, so that it names them"
    return Conclusion("id", "nearly each row has its own", told)


def _image_path(seen: _Seen) -> Conclusion | None:
    if seen.column.text is not None and seen.column.text.image_paths > 0.9:
        return Conclusion("image path", "names of image files")
    return None


def _timestamp(seen: _Seen) -> Conclusion | None:
    column = seen.column
    if column.kind == "timestamp":
        return Conclusion("timestamp")
    if column.text is None or not column.text.formats:
        return None
    formats = column.text.formats
    why = f"written as {formats[0] or 'ISO 8601'}"
    if len(formats) > 1:
        others = " or ".join(formats[1:])
        told = f"{column.name} is taken for {formats[0]}, and may be {others}: no row tells them apart"
        return Conclusion("timestamp", why, told)
    return Conclusion("timestamp", why)


def _written_number(seen: _Seen) -> Conclusion | None:
    """Numbers that are written as text."""
    column = seen.column
    if column.kind != "text" or column.text is None or not column.text.written:
        return None
    why = f"numbers written as text, {column.text.written}"
    strange = column.text.odd if column.text.written == "plain" else ()
    if column.text.written.startswith("blanks"):
        return Conclusion(
            "number", why, f"{column.name} is taken for numbers with blanks between thousands, not for codes"
        )
    if not strange:
        return Conclusion("number", why)
    value, _, row = strange[0]
    count = sum(count for _, count, _ in strange)
    told = f"{column.name} has {value[:30]!r} in row {row:,}, which is no number; the contract leaves out {count:,}"
    return Conclusion("number", why, told)


def _boolean(seen: _Seen) -> Conclusion | None:
    if seen.column.kind == "boolean":
        return Conclusion("boolean")
    if seen.column.kind == "text" and is_boolean(seen.column):
        return Conclusion("boolean", " or ".join(str(value) for value, _ in seen.column.top))
    return None


def is_boolean(column: ColumnProfile) -> bool:
    """Whether its two texts are words for yes and no."""
    words = {str(value).strip().casefold() for value, _ in column.top}
    return column.distinct == 2 and words in _BOOLEAN_WORDS


def _group(seen: _Seen) -> Conclusion | None:
    """An id that repeats."""
    column = seen.column
    if column.kind not in ("integer", "text") or column.distinct < 10 or not column.repeats > 1.05:
        return None
    if not _GROUP_NAME.search(column.name) or column.distinct < column.present**0.5 / 2:
        return None
    if seen.target.task == "regression" and column.kind == "integer" and column.repeats > 50:
        return None
    return Conclusion("group", f"{column.distinct:,} groups of {column.repeats:.1f} rows on average")


def _prose(seen: _Seen) -> Conclusion | None:
    column = seen.column
    if column.kind != "text" or column.text is None:
        return None
    share = column.distinct / max(column.present, 1)
    many = column.distinct > 50
    words = column.text.words
    if many and ((words > 4 and share > 0.3) or (words > 1.5 and share > 0.5)):
        return Conclusion("prose", f"texts of {column.text.words:.0f} words on average")
    if share > 0.5 and many:
        return Conclusion(
            "id", "few rows share a value", f"{column.name} repeats so rarely that it is left out"
        )
    return None


def _number_or_category(seen: _Seen) -> Conclusion:
    column = seen.column
    if column.kind == "text":
        return Conclusion("category")
    sentinels = tuple(find_sentinels(column))
    if column.kind != "integer" and not (column.kind == "number" and column.numbers and column.numbers.whole):
        return Conclusion("number", sentinels=sentinels, unsure=_doubt(column, sentinels))
    few = 2 < column.distinct <= max(12, min(50, column.rows // 15))
    codes = 2 < column.distinct <= max(12, min(1000, column.rows // 15))
    alone, straight = (one.get(column.name, 0.0) for one in (seen.relations.alone, seen.relations.straight))
    if few and alone > straight + 0.1 and alone > 0.1:
        return Conclusion(
            "category", f"{column.distinct:,} whole numbers whose order says little of the target"
        )
    if few and _CALENDAR.search(column.name):
        return Conclusion("category", "a part of a date or time, which comes round again")
    if codes and _CODE_NAME.search(column.name):
        told = f"whether the order of {column.name} means anything: if so, move it to numbers"
        return Conclusion("category", f"{column.distinct:,} codes", told)
    return Conclusion("number", sentinels=sentinels, unsure=_doubt(column, sentinels))


def _doubt(column: ColumnProfile, sentinels: tuple[float, ...]) -> str:
    if not sentinels:
        return ""
    shown = ", ".join(f"{value:g}" for value in sentinels)
    return f"{shown} of {column.name} stands far from its other values and is taken for missing"


def find_sentinels(column: ColumnProfile) -> Iterator[float]:
    """Numbers that stand for a missing value: written like one, frequent, and far from all others."""
    numbers = column.numbers
    if numbers is None or column.distinct < 5:
        return
    for value, rows in column.top:
        if not isinstance(value, int | float) or float(value) not in _SENTINELS or rows < 2:
            continue
        if value not in (numbers.min, numbers.max) or rows > 0.9 * column.present:
            continue
        others = [quantile for quantile in numbers.quantiles if quantile != value]
        if len(others) < 3:
            continue
        low, high = min(others), max(others)
        spread = max(high - low, abs(high), 1.0)
        below, above = (
            spread * (0.5 if abs(value) < 100 else 1),
            4 * spread,
        )  # amounts may be cut off at 99999
        minus_one = value == -1 and low >= 0 and rows >= 0.02 * column.present and high > 20
        if minus_one or (abs(value) > 1 and (low - value > below or value - high > above)):
            yield float(value)


_RULES: tuple[Callable[[_Seen], Conclusion | None], ...] = (
    _nothing, _image, _constant, _twin, _id, _leak, _unnamed, _image_path, _timestamp, _boolean, _group,
    _written_number, _prose, _number_or_category,
)  # fmt: skip


def of_role(concluded: Mapping[str, Conclusion], *roles: Role) -> list[str]:
    """Columns in the order of the table."""
    return [name for name, one in concluded.items() if one.role in roles]
