"""A spec as YAML text for a person: grouped, commented, with `# unsure:` where someone should look. Decides nothing."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymlops.conversions.conversion import EXACT, MISSING_TEXTS
from raymlops.data.profiling import roles
from raymlops.data.profiling.split_choice import SplitChoice
from raymlops.data.profiling.target import Target
from raymlops.data.profiling.time_columns import USUAL_PARTS, choose_parts
from raymlops.expressions import quote_name
from raymlops.specs.dataset import TableSpec
from raymlops.specs.features import ANSWERS_OF_TASK, INNER_PREFIXES
from raymlops.specs.text_documents import read_yaml
from raymlops.table_profile import ColumnProfile, Conclusion, NumberProfile, Role, TableProfile

_WIDTH = 100
_MODELLED: tuple[Role, ...] = ("number", "category", "boolean", "timestamp", "prose")
_FINITE = "1e38"
"""Below what is infinite for a model."""
_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_./+-]*")


def write_spec(
    name: str,
    reading: TableSpec,
    table: TableProfile,
    target: Target,
    concluded: dict[str, Conclusion],
    split: SplitChoice,
    unsure: Sequence[str],
    page: str,
) -> str:
    """The text of the spec; `unsure` are remarks on how the file is read."""
    renamed = _rename_columns(table, target, concluded)
    parts = (
        _write_head(name, table, target, concluded, page),
        _write_dataset(reading, table, target, unsure, renamed),
        _write_contract(table, target, concluded, renamed),
        _write_split(split),
        _write_features(table, target, concluded, renamed),
        _write_rest(table, target),
    )
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _rename_columns(table: TableProfile, target: Target, concluded: dict[str, Conclusion]) -> dict[str, str]:
    """Features whose names are taken in the model -> new names, by which `derive` and the contract know them."""
    taken = ANSWERS_OF_TASK[target.task]
    return {
        name: _new_name(name, table, "_in")
        for name in roles.of_role(concluded, *_MODELLED)
        if name in taken or name.startswith(INNER_PREFIXES)
    }


def _write_head(
    name: str, table: TableProfile, target: Target, concluded: dict[str, Conclusion], page: str
) -> list[str]:
    used = len(roles.of_role(concluded, *_MODELLED, "image"))
    lines = [
        f"# Made from {_one_line(table.source)}: {table.rows:,} rows, {len(table.columns):,} columns, of which "
        f"{used:,} become features. By raymlops init.",
        f"# Look at {page}, read what is marked `unsure`, and edit.",
        "# Then: raymlops search THIS_FILE",
        f"name: {_quote(name)}",
    ]
    if table.duplicates:
        about = "" if table.exact else "about "
        lines.insert(1, f"# {about}{table.duplicates:,} rows are equal to another row.")
    return lines


def _write_dataset(
    reading: TableSpec, table: TableProfile, target: Target, unsure: Sequence[str], renamed: Mapping[str, str]
) -> Iterator[str]:
    yield "dataset:"
    yield f"  reader: {reading.reader}"
    yield f"  path: {_flow(reading.path)}"
    if reading.options:
        yield "  options:"
        for key, value in reading.options.items():
            yield from _write_option(key, value)
    for remark in unsure:
        yield f"  # unsure: {_one_line(remark)}"
    yield from _explain_conditions(table.column(target.column), target)
    conditions = _list_conditions(table.column(target.column), target)
    for one in table.columns:
        if words := _find_missing_words(one):
            shown = ", ".join(map(repr, words[:5]))
            yield f"  # unsure: {_one_line(shown)} among the numbers of {_one_line(one.name)} is taken for missing"
    derived = dict(_derive_columns(table, words=reading.reader != "csv"))
    derived |= {new: quote_name(name) for name, new in renamed.items()}
    for name, new in renamed.items():
        yield f"  # {_one_line(name)} is the name of an output of the model, so its input is {_one_line(new)}"
    if derived:
        yield "  derive:"
        for name, expression in derived.items():
            yield f"    {_quote(name)}: {_quote(expression)}"
    if conditions:
        yield f"  where: {_quote(' and '.join(conditions))}"


def _explain_conditions(column: ColumnProfile, target: Target) -> Iterator[str]:
    if column.nulls:
        yield f"  # {column.nulls:,} rows have no {_one_line(target.column)}, and are left out"
    if target.rare:
        shown = ", ".join(str(value) for value in target.rare[:10])
        yield f"  # unsure: classes with too few rows to train and test on are left out: {_one_line(shown)}"


def _list_conditions(column: ColumnProfile, target: Target) -> list[str]:
    """On the target, of rows that can be learned from."""
    name = quote_name(target.column)
    found = [f"{name}.notna()"] if column.nulls else []
    found += [f"abs({name}) < {_FINITE}"] if column.infinite else []
    return found + ([f"{name} not in [{', '.join(map(repr, target.rare))}]"] if target.rare else [])


def _find_missing_words(column: ColumnProfile) -> list[str]:
    """Texts that stand for a missing number here, and not everywhere."""
    if column.text is None or column.kind not in ("integer", "number"):
        return []
    return [word for word in column.text.absent if word.strip() not in MISSING_TEXTS]


def _derive_columns(table: TableProfile, *, words: bool) -> Iterator[tuple[str, str]]:
    """Column -> expression for what neither reader nor contract converts; with `words`, missing ones, too."""
    for column in table.columns:
        name = quote_name(column.name)
        if column.text is not None and column.text.written in _DERIVED:
            shown = str(column.top[0][0]) if column.top else ""
            sign = next((sign for sign in "$€£" if sign in shown), "$")
            yield column.name, _DERIVED[column.text.written].format(name, sign)
        elif words and (missing := _find_missing_words(column)):
            held = " | ".join(f"({name} == {word!r})" for word in missing)
            yield column.name, f"where({held}, '', {name})"


def _write_option(key: str, value: Any) -> Iterator[str]:
    line = f"    {key}: {_flow(value)}"
    if len(line) <= _WIDTH or not isinstance(value, dict):
        yield line
        return
    yield f"    {key}:"
    for inner, held in value.items():
        if isinstance(held, list) and all(isinstance(one, str) for one in held):
            yield from _write_list(inner, held, "      ")
        else:
            yield f"      {_quote(inner)}: {_flow(held)}"


def _write_contract(
    table: TableProfile, target: Target, concluded: dict[str, Conclusion], renamed: Mapping[str, str]
) -> Iterator[str]:
    yield "# Rows that break a rule are counted, sampled into the report and left out; today's rows keep all of them,"
    yield "# unless it says otherwise."
    yield "contract:"
    yield "  columns:"
    for column in table.columns:
        if concluded[column.name].role not in (*_MODELLED, "target"):
            continue
        rule = find_rule(column, concluded[column.name], target)
        if column.beyond:
            told = f"{column.name} has {column.beyond:,} numbers beyond FP32, which models take; max leaves them out"
            yield f"    # unsure: {_one_line(told)}"
            rule = {"max": 1e38, **rule}
        if rule:
            yield f"    {_quote(renamed.get(column.name, column.name))}: {_flow(rule)}"
    share = _count_left_out(table, concluded) / table.rows
    most = 0.05
    if share > 0.8 * most:
        most = min(1.0, math.ceil(share * 120) / 100)
        yield f"    # unsure: up to {share:.0%} of today's rows are left out by these rules"
    yield f"  max_failed: {most:<15} # share of such rows above which a search stops"


def _count_left_out(table: TableProfile, concluded: dict[str, Conclusion]) -> int:
    """Today's rows that break the contract, at the most."""
    used = [column for column in table.columns if concluded[column.name].role in ("number", "target")]
    return sum((column.text.odd_rows if column.text else 0) + column.beyond for column in used)


_WRITTEN = {
    "thousands": {"thousands": ","},
    "comma": {"decimal": ",", "thousands": "."},
    "blanks": {"thousands": " "},
    "blanks, comma": {"decimal": ",", "thousands": " "},
    "apostrophes": {"thousands": "'"},
}
"""Way to write numbers -> how the contract reads them."""
_DERIVED = {
    "percent": "float(replace({0}, '%', ''))",
    "money": "float(replace(replace({0}, '{1}', ''), ',', ''))",
}
"""The same as an expression, for what no contract reads."""


def find_rule(column: ColumnProfile, concluded: Conclusion, target: Target) -> dict[str, Any]:
    """What every row of today keeps, with room for values a little beyond them."""
    rule: dict[str, Any] = {}
    is_target = column.name == target.column
    written = column.text.written if column.text is not None else ""
    if concluded.role == "timestamp" and column.text is not None and column.text.formats:
        form = column.text.formats[0]
        rule |= {"type": "timestamp", **({"format": form} if form else {})}
    elif concluded.role == "boolean":
        rule["type"] = "boolean"
    elif column.kind in ("integer", "number", "boolean", "timestamp"):
        rule["type"] = "number" if _exceeds_integers(column) else column.kind
    elif written and (concluded.role == "number" or is_target):
        rule |= {"type": "number", **_WRITTEN.get(written, {})}
    elif column.kind == "text":
        rule["type"] = "string"
    if not column.nulls and column.rows >= 1000 and not is_target:
        rule["nulls"] = False
    numbers = column.numbers
    if numbers is not None and rule.get("type") in ("integer", "number") and concluded.role == "number":
        low, high = find_bounds(numbers, column)
        rule["min"], rule["max"] = low, high
    return rule


def _exceeds_integers(column: ColumnProfile) -> bool:
    """Whether some of its whole numbers are beyond 64 bits, or were read as floats that stand for several."""
    numbers = column.numbers
    if column.kind != "integer" or numbers is None:
        return False
    largest = max(abs(numbers.min), abs(numbers.max))
    return largest >= 2**63 or (largest > EXACT and "int" not in column.stored)


def find_bounds(numbers: NumberProfile, column: ColumnProfile) -> tuple[float, float]:
    """The range of today's values, half as wide again on each side, in round numbers; zero bounds what is never
    below it. Few whole numbers in a narrow range are taken for all that there are."""
    low, high = numbers.min, numbers.max
    if numbers.whole and column.distinct <= 60 and high - low < 2 * column.distinct:
        return int(low), int(high)
    room = 0.5 * (high - low)
    lower = 0.0 if low >= 0 else _round(low - room, math.floor)
    upper = 0.0 if high <= 0 else _round(high + room, math.ceil)
    if numbers.whole and abs(lower) < 1e15 and abs(upper) < 1e15:
        return math.floor(lower), math.ceil(upper)
    return lower, upper


def _round(value: float, towards: Any) -> float:
    """To two digits, away from the values."""
    if value == 0 or not math.isfinite(value):
        return 0.0 if value == 0 else math.copysign(1e308, value)
    power = math.floor(math.log10(abs(value))) - 1
    found = towards(value / 10.0**power) * 10.0**power
    return float(f"{found:.2g}") if math.isfinite(found) else math.copysign(1e308, value)


def _write_split(split: SplitChoice) -> Iterator[str]:
    yield f"# {_one_line(split.why)}"
    if split.unsure:
        yield f"# unsure: {_one_line(split.unsure)}"
    column = f", column: {_quote(split.column)}" if split.column else ""
    yield f"split: {{by: {split.by}{column}}}"


_GROUPS: tuple[tuple[str, Role], ...] = (
    ("numbers", "number"), ("categories", "category"), ("timestamps", "timestamp"), ("images", "image"),
    ("texts", "prose"),
)  # fmt: skip
_LEFT_OUT = {
    "leak": "predict the target too well to be known before it",
    "id": "name rows",
    "group": "name groups of rows, which new rows will not share",
    "constant": "say nothing",
    "duplicate": "repeat another column",
    "image path": "name image files; dataset.images: {COLUMN: {size: [HEIGHT, WIDTH]}} loads them",
    "unusable": "hold values that no learner takes",
}


def _write_features(
    table: TableProfile, target: Target, concluded: dict[str, Conclusion], renamed: Mapping[str, str]
) -> Iterator[str]:
    yield "features:"
    yield "  target:"
    yield f"    column: {_quote(target.column)}"
    yield f"    task: {target.task}{_pad(f'task: {target.task}')}# {_one_line(target.why)}"
    if target.unsure:
        yield f"    # unsure: {_one_line(target.unsure)}"
    if target.positive is not None:
        line = f"positive: {_flow(target.positive)}"
        yield f"    {line}{_pad(line)}# the class whose probability is predicted"
    if target.classes:
        yield f"    # {_one_line(_describe_balance(target))}"
    booleans = roles.of_role(concluded, "boolean")
    spoiled = {name: one for name, one in concluded.items() if one.sentinels and one.role == "number"}
    dated = {
        name: parts
        for name in roles.of_role(concluded, "timestamp")
        if (parts := choose_parts(table.column(name).numbers)) != USUAL_PARTS
    }
    for key, role in _GROUPS:
        names = [name for name in roles.of_role(concluded, role) if name not in (*spoiled, *dated)]
        if key == "numbers":
            names += booleans
        yield from _write_list(key, [renamed.get(name, name) for name in names], "  ")
        for name in names:
            if concluded[name].unsure:
                yield f"  # unsure: {_one_line(concluded[name].unsure)}"
    if spoiled or dated:
        yield "  columns:"
        for name, parts in dated.items():
            if concluded[name].unsure:
                yield f"    # unsure: {_one_line(concluded[name].unsure)}"
            yield f"    {_quote(renamed.get(name, name))}: {{kind: timestamp, parts: {_flow(parts)}}}"
        for name, one in spoiled.items():
            yield f"    # unsure: {_one_line(one.unsure)}"
            yield f"    {_quote(_new_name(name, table, '_known'))}:"
            yield "      kind: number"
            yield f"      expression: {_quote(_without_sentinels(renamed.get(name, name), one.sentinels))}"
    yield from _write_left_out(table, concluded)


def _write_left_out(table: TableProfile, concluded: dict[str, Conclusion]) -> Iterator[str]:
    for role, why in _LEFT_OUT.items():
        names = [name for name, one in concluded.items() if one.role == role]
        if not names:
            continue
        yield f"  # Left out, since they {why}:"
        if role == "image path":
            yield from (f"  # {line.strip()}" for line in _write_list("image_paths", names, ""))
        for name in names[:50]:
            one = concluded[name]
            yield f"  #   {_one_line(name) or '(no name)'}: {_one_line(one.why)}" + (
                f"  # unsure: {_one_line(one.unsure)}" if one.unsure else ""
            )
        if len(names) > 50:
            yield f"  #   and {len(names) - 50} more"


def _new_name(name: str, table: TableProfile, ending: str) -> str:
    names = {column.name for column in table.columns}
    new = re.sub(r"\W", "_", name) + ending
    while new in names:
        new += "_"
    return new


def _without_sentinels(name: str, sentinels: Sequence[float]) -> str:
    held = " | ".join(f"({quote_name(name)} == {value:g})" for value in sentinels)
    return f"where({held}, sqrt(-1), {quote_name(name)})"


def _describe_balance(target: Target) -> str:
    total = sum(rows for _, rows in target.classes)
    shown = ", ".join(f"{value} {rows / total:.1%}" for value, rows in target.classes[:8])
    more = f" and {len(target.classes) - 8} more" if len(target.classes) > 8 else ""
    return f"classes: {shown}{more}"


def _write_rest(table: TableProfile, target: Target) -> Iterator[str]:
    yield "# The search chooses among all learners, or blends them, and what is open follows from the rows, columns and"
    yield "# classes; what is written here counts instead."
    shares = [rows for _, rows in target.classes]
    if target.task != "regression" and min(shares) < 0.1 * max(shares):
        yield "# The classes are unequal: evaluation.cost says what a false alarm and a miss cost."
    yield "# search: {max_minutes: 30, learners: [lightgbm, linear]}"


def _write_list(key: str, names: Sequence[str], indent: str) -> Iterator[str]:
    """`key: [...]`, on as many lines as it takes."""
    if not names:
        return
    line = f"{indent}{key}: ["
    start = " " * len(line)
    for place, name in enumerate(names):
        part = _quote(name) + ("," if place < len(names) - 1 else "]")
        if len(line) + len(part) > _WIDTH and line.strip() and not line.endswith("["):
            yield line.rstrip()
            line = start
        line += part + (" " if place < len(names) - 1 else "")
    yield line


def _pad(text: str) -> str:
    return " " * max(2, 26 - len(text))


def _quote(text: str) -> str:
    """A text as a YAML scalar that is read as this text, by every reader of YAML."""
    if _PLAIN.fullmatch(text) and read_yaml(text)[0] == text:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)


def _flow(value: Any) -> str:
    """In one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quote(str(key))}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    if isinstance(value, float):
        return _flow_number(value)
    return str(value)


def _flow_number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{value:.1f}"
    text = repr(value)
    # YAML 1.1 takes 1e-05 for a text.
    return re.sub(r"^(-?\d+)e", r"\1.0e", text)


def _one_line(text: object) -> str:
    """For a comment: no line break or control character may end it."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text))
