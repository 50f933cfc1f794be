"""How a CSV file is written, from its first bytes: encoding, separator, quotes, header, decimal mark. Pure functions of
bytes; reads no files."""

import csv
import dataclasses
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow.csv

from raymlops.errors import DataError

_SEPARATORS = (",", ";", "\t", "|")
_RECORDS = 300
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),  # which pyarrow skips itself
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""Byte order marks -> encoding."""

NULLS = tuple(pyarrow.csv.ConvertOptions().null_values)
"""Texts that pyarrow takes for missing values."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_GROUPED_BY_DOTS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a file is written; `names` are those of its columns, made different where the file repeats one."""

    names: tuple[str, ...]
    encoding: str = "utf-8"
    separator: str = ","
    quote: str = '"'
    escape: str = ""
    header: bool = True
    skipped: int = 0
    """Lines above the header."""
    header_lines: int = 1
    """More than one if a quoted name has line breaks."""
    renamed: bool = False
    """Whether `names` differ from what the file says."""
    multiline: bool = False
    decimal: str = "."
    unsure: tuple[str, ...] = ()
    """What a person should look at."""

    def to_options(self) -> dict[str, Any]:
        """As `dataset.options` of a spec; empty for what pyarrow reads by default."""
        read: dict[str, Any] = {}
        if self.encoding != "utf-8":
            read["encoding"] = self.encoding
        if self.renamed:
            read["column_names"] = list(self.names)
        elif not self.header:
            read["autogenerate_column_names"] = True
        skip = self.skipped + (self.header_lines if self.renamed and self.header else 0)
        if skip:
            read["skip_rows"] = skip
        parse: dict[str, Any] = {}
        for key, value, usual in (
            ("delimiter", self.separator, ","),
            ("quote_char", self.quote, '"'),
            ("escape_char", self.escape, ""),
            ("newlines_in_values", self.multiline, False),
        ):
            if value != usual:
                parse[key] = value
        convert = {"decimal_point": ","} if self.decimal == "," else {}
        found = {"read_options": read, "parse_options": parse, "convert_options": convert}
        return {key: value for key, value in found.items() if value}


def find_dialect(
    head: bytes, *, whole: bool, source: str, separator: str | None = None, header: bool | None = None
) -> Dialect:
    """The dialect of a file that begins with `head`; `whole` if that is all of it. A given `separator`, and whether
    there is a `header`, is not searched.

    Raises DataError for what cannot be read as a table, with the remedy.
    """
    encoding, text = _decode(head, source, whole)
    if not text.strip():
        raise DataError(f"File {source!r} is empty; expected a header and rows")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text
    quote = _find_quote(text)
    escape = "\\" if re.search(r'\\"', text) and not re.search(r'""[^,;\t|\r\n"]', text) else ""
    if separator is None:
        separator, records = _find_separator(text, quote, escape, whole=whole, source=source)
    else:
        records = _parse(text, separator, quote, escape, whole)
    unsure: list[str] = []
    skipped, records = _skip_preamble(text, records)
    if skipped:
        unsure.append(f"the first {skipped} lines are not a part of the table")
    width = Counter(len(record) for record in records).most_common(1)[0][0]
    body = [record for record in records if len(record) == width]
    again = next((place for place, record in enumerate(body) if place and record == body[0]), 0)
    if again and not any(map(_is_number, body[0])) and any(_is_number(value) for value in body[1]):
        raise DataError(
            f"File {source!r} has its header ({', '.join(body[0])[:60]}) again as line {skipped + again + 1}, as files "
            "have that were joined; leave out the later ones first: awk 'NR == 1 || $0 != header {print} "
            "NR == 1 {header = $0}' FILE"
        )
    if header is None:
        header = _has_header(body, unsure)
    names, renamed = _name_columns(records[0] if header else [], width, unsure)
    rows = body[1:] if header else body
    return Dialect(
        names,
        encoding,
        separator,
        quote,
        escape,
        header,
        skipped,
        1 + sum(name.count("\n") for name in records[0]) if header else 1,
        renamed,
        multiline=any("\n" in value for record in records for value in record),
        decimal="," if separator != "," and _has_decimal_commas(rows, width) else ".",
        unsure=tuple(unsure),
    )


def _decode(head: bytes, source: str, whole: bool) -> tuple[str, str]:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            text = head[: len(head) - len(head) % 4] if encoding != "utf-8" else head[len(mark) :]
            return encoding, text.decode(encoding, errors="ignore")
    if b"\x00" in head:
        for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros.count(0) > 0.4 * len(zeros) and head.count(0) < 0.6 * len(head):
                return encoding, head[: len(head) - len(head) % 2].decode(encoding, errors="ignore")
        raise DataError(
            f"File {source!r} has bytes of zero, so that it is no text; give its dataset.reader, such as parquet"
        )
    try:
        return "utf-8", head.decode()
    except UnicodeDecodeError as error:
        if not whole and error.start >= len(head) - 4:  # a sign that the end of `head` cuts
            return "utf-8", head[: error.start].decode()
    encoding = choose_encoding(head)
    return encoding, head.decode(encoding)


def choose_encoding(data: bytes) -> str:
    """The encoding of a text that is not UTF-8, of western languages."""
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"


def _find_quote(text: str) -> str:
    fields = [part.strip() for part in re.split(r"[,;\t|\n]", text[:50_000])]
    single = sum(len(part) > 1 and part[0] == part[-1] == "'" for part in fields)
    double = sum(len(part) > 1 and part[0] == part[-1] == '"' for part in fields)
    return "'" if single > max(2, double, 0.05 * len(fields)) else '"'


def _parse(text: str, separator: str, quote: str, escape: str, whole: bool) -> list[list[str]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, quotechar=quote, escapechar=escape or None
    )
    records: list[list[str]] = []
    try:
        for record in itertools.islice(reader, _RECORDS):
            if record:
                records.append(record)
    except csv.Error:  # a field beyond the limit of the csv module: a quote that is never closed
        return records
    if not whole and len(records) < _RECORDS and len(records) > 1:
        records.pop()  # may be cut within quotes
    return records


def _find_separator(
    text: str, quote: str, escape: str, *, whole: bool, source: str
) -> tuple[str, list[list[str]]]:
    """The separator that gives the same number of fields, above one, in the most records."""
    best: tuple[float, bool, int] = (0.0, False, 0)
    chosen, records = "", []
    for separator in _SEPARATORS:
        parsed = _parse(text, separator, quote, escape, whole)
        if not parsed:
            continue
        width, count = Counter(len(record) for record in parsed).most_common(1)[0]
        # A header has no decimal commas, which may look like separators in all other lines.
        score = (round(count / len(parsed), 1), len(parsed[0]) == width, width)
        if width > 1 and score > best:
            best, chosen, records = score, separator, parsed
    if best[0] >= 0.7:
        return chosen, records
    lines = [line for line in text.splitlines() if line.strip()][:_RECORDS]
    widths = Counter(len(line.split()) for line in lines)
    width, count = widths.most_common(1)[0]
    if width > 1 and count >= 0.9 * len(lines):
        parsed = _parse(text, " ", quote, escape, whole)
        if len({len(record) for record in parsed}) == 1 and len(parsed[0]) == width:
            return " ", parsed
        raise DataError(
            f"File {source!r} has columns of a fixed width or several blanks between them; put one separator there "
            "first, such as: tr -s ' ' ',' < FILE > data.csv"
        )
    if chosen:
        return chosen, records
    parsed = _parse(text, ",", quote, escape, whole)
    if not parsed:
        raise DataError(f"File {source!r} has no record that can be read; check its quotes")
    raise DataError(
        f"File {source!r} has one column only, {parsed[0][0][:60]!r}; if another sign separates its columns, give "
        "--option 'parse_options={delimiter: SIGN}'"
    )


def _skip_preamble(text: str, records: list[list[str]]) -> tuple[int, list[list[str]]]:
    """Lines above the table, such as a title, have fewer fields than it."""
    width, count = Counter(len(record) for record in records).most_common(1)[0]
    first = next(place for place, record in enumerate(records) if len(record) == width)
    if not first or first > 30 or count < 0.8 * (len(records) - first):
        return 0, records
    if first == 1 and len(records[0]) == width - 1 and any(map(_is_number, records[1])):
        return 0, records  # the header of a table whose row names have no name
    blank = sum(1 for line in text.splitlines()[: first * 2] if not line.strip())
    return first + min(blank, first), records[first:]


def _is_number(text: str) -> bool:
    text = text.strip()
    return any(one.fullmatch(text) for one in (NUMBER, _COMMA, GROUPED, _GROUPED_BY_DOTS))


def _has_header(body: Sequence[Sequence[str]], unsure: list[str]) -> bool:
    """Whether the first record names the columns: numbers, or values that later rows repeat, are no names."""
    first, rows = body[0], body[1:]
    if not rows:
        return True
    numbers = [text for text in first if _is_number(text)]
    if numbers and len(numbers) >= len(first) - 1:
        try:
            steps = {int(b) - int(a) for a, b in itertools.pairwise(numbers)}
        except ValueError:
            steps = set()
        if steps == {1} and len(numbers) > 1 and [row[-len(numbers) :] for row in rows[:1]] != [numbers]:
            return True  # 0, 1, 2 ...: names that a program gave
    votes = 0
    for place, name in enumerate(first):
        values = [row[place].strip() for row in rows if row[place].strip() not in NULLS]
        if not values:
            continue
        share = sum(map(_is_number, values)) / len(values)
        named = name.strip()
        if share > 0.8:
            votes += 1 if named and not _is_number(named) else (-1 if named else 0)
        elif named and named in values:
            votes -= 1
        elif named and not _is_number(named) and share < 0.2:
            length = sum(map(len, values)) / len(values)
            votes += 0 if len(set(values)) > 0.9 * len(values) and abs(len(named) - length) < 3 else 1
    if abs(votes) <= max(1, len(first) // 10) and len(first) > 1:
        unsure.append(f"whether the first line ({', '.join(first)[:60]}) names the columns")
    return votes >= 0


def _name_columns(header: Sequence[str], width: int, unsure: list[str]) -> tuple[tuple[str, ...], bool]:
    """Names, and whether they must be given to the reader since the file's cannot be used."""
    if not header:
        return tuple(f"f{place}" for place in range(width)), False
    given = list(header)
    renamed = False
    if len(given) == width - 1:
        given, renamed = ["row", *given], True
        unsure.append("the header has one name less than there are columns; the first is called 'row'")
    names: list[str] = []
    for name in given:
        clean, count = name.strip().replace("\n", " "), 1
        new = clean
        while new in names or (count > 1 and new in given):
            count += 1
            new = f"{clean}_{count}"
        if new != clean:
            unsure.append(f"the header has {clean!r} twice; the later one is called {new!r}")
        renamed |= new != name
        names.append(new)
    return tuple(names), renamed


def _has_decimal_commas(rows: Sequence[Sequence[str]], width: int) -> bool:
    for place in range(width):
        values = [row[place].strip() for row in rows if row[place].strip() not in NULLS]
        commas = sum(bool(_COMMA.fullmatch(value)) for value in values)
        if commas and all(_COMMA.fullmatch(value) or NUMBER.fullmatch(value) for value in values):
            return True
        if commas and all(_GROUPED_BY_DOTS.fullmatch(value) or _COMMA.fullmatch(value) for value in values):
            return True
    return False
