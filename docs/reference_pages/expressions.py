"""Reference of the language of expressions: its rules and the fixed list of its functions."""

from raymlops import expressions
from raymlops.expressions.functions import FUNCTIONS, MANY, Function
from reference_pages.markdown import code, table


def write_page() -> str:
    """The page of `where`, `derive` and `expression`."""
    rows = [
        [code(name), _arguments(function), "yes" if function.in_models else ""]
        for name, function in sorted(FUNCTIONS.items())
    ]
    rules = (expressions.__doc__ or "").partition("\n\n")[2]
    return "\n\n".join(
        [
            "# Expressions",
            "`dataset.where`, `dataset.derive` and the `expression` of a feature are one language, in the syntax of "
            "`pandas.eval`. Text is parsed, and never run as code.",
            *(" ".join(paragraph.split()) for paragraph in rules.split("\n\n")),
            "What is missing stays missing, and in `where` the row is left out. Months and days count from 1.",
            "A function with a `yes` in the last column may also stand in the `expression` of a feature, which is "
            "computed inside the exported model; the others are for `where` and `derive`. A name with `dt_` is pandas' "
            "`column.dt.NAME`, in the time zone of the column; text functions may be written as `column.str.NAME()`.",
            table(["function", "arguments", "in models"], rows),
        ]
    ) + "\n"  # fmt: skip


def _arguments(function: Function) -> str:
    if function.most >= MANY:
        told = f"{function.least} or more"
    elif function.least == function.most:
        told = str(function.least)
    else:
        told = f"{function.least} to {function.most}"
    return told + (
        f"; options {', '.join(code(name) for name in function.options)}" if function.options else ""
    )
