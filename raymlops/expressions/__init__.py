"""The expression language of dataset `where` and `derive`, and of features. Parses and checks; evaluates nothing.

Text becomes a tree of literals, columns and calls of a fixed list of functions and operators. Nothing else is looked
up by name: no attributes, no variables, no user functions. The syntax is Python's, and pandas.eval's where that is a
subset: `&`, `|` bind like `and`, `or`; comparisons chain; `col.str.lower()`, `when.dt.year` and `col.isnull()` are
spellings of functions of the list; names with other characters are written in backticks. Two backends compute it:
data/column_expressions.py on arrow columns, models/formulas.py as ONNX.

Values are integers (64 bits), floats, booleans, texts and timestamps. There is one missing value (null, NaN): a
result computed from it is missing, except by `isnull`, `coalesce`, and `and`/`or` if the other side decides. In a
model, which computes in FP32 only, a comparison with a missing value is 0. `/` gives floats, infinite on division by
0; integer `//` and `%` by 0 are missing; integer results beyond 64 bits are an error. Text and numbers do not mix.
"""

from raymlops.expressions.functions import CONSTANTS, FUNCTIONS
from raymlops.expressions.parser import MAX_CHARACTERS, parse, parse_feature
from raymlops.expressions.tree import CALENDAR, Call, Column, Literal, Tree, columns_of, is_calendar, walk

__all__ = [
    "CALENDAR",
    "CONSTANTS",
    "FUNCTIONS",
    "MAX_CHARACTERS",
    "Call",
    "Column",
    "Literal",
    "Tree",
    "columns_in",
    "columns_of",
    "instants_in",
    "is_calendar",
    "parse",
    "parse_feature",
    "quote_name",
    "walk",
]


def columns_in(expression: str) -> tuple[str, ...]:
    """The columns that an expression reads, in the order of their first use."""
    return columns_of(parse(expression))


def quote_name(column: str) -> str:
    """A column as an expression names it: in backticks if it is no plain name."""
    try:
        if parse(column) == Column(column):
            return column
    except ValueError:
        pass
    return "`" + column.replace("`", "``") + "`"


def instants_in(expression: str) -> frozenset[str]:
    """The columns that a feature's expression uses as timestamps."""
    calls = [node for node in walk(parse_feature(expression)) if isinstance(node, Call) and is_calendar(node)]
    return frozenset(call.arguments[0].name for call in calls if isinstance(call.arguments[0], Column))
