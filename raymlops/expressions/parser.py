"""Parses an expression with Python's own parser, and converts only allowed nodes of its tree."""

import ast
import functools
import warnings
import zoneinfo
from collections.abc import Callable, Iterable

from raymlops.errors import unknown_name
from raymlops.expressions.folding import check_number, fold
from raymlops.expressions.functions import (
    ACCESSORS,
    CASTS,
    CONSTANTS,
    FUNCTIONS,
    METHODS,
    ON_ALL_ROWS,
    TEXT_PREDICATES,
)
from raymlops.expressions.tokens import to_python
from raymlops.expressions.tree import CALENDAR, Call, Column, Literal, Tree, columns_of, is_calendar, walk

_LARGEST_FLOAT = 3.4e38
MAX_CHARACTERS = 10_000
MAX_NODES = 2_000
MAX_DEPTH = 200

_BINARY: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
}
_COMPARE: dict[type[ast.AST], str] = {
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
}
_SPELLINGS = {
    "Attribute": "an attribute (columns with a dot in their name go in backticks)",
    "Lambda": "a lambda",
    "JoinedStr": "an f-string",
    "ListComp": "a comprehension",
    "GeneratorExp": "a comprehension",
    "NamedExpr": "an assignment",
    "IfExp": "if-else; write where(condition, a, b)",
    "Subscript": "an index; only .str[a:b] has one",
    "Starred": "a starred argument",
    "List": "a list, which may follow only in, not in, == and !=",
    "Tuple": "a tuple",
}


@functools.lru_cache(maxsize=512)
def parse(expression: str) -> Tree:
    """The expression's tree. Raises ValueError with one sentence for syntax that the language does not have."""
    shown = repr(expression if len(expression) <= 80 else f"{expression[:77]}...")
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(
            f"{shown} has {len(expression):,} characters; an expression has {MAX_CHARACTERS:,} at most"
        )
    try:
        text, columns = to_python(expression)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes in texts, such as '\d'
            tree = ast.parse(text.strip(), mode="eval").body
        return _Builder(columns).build(tree)
    except SyntaxError as error:
        raise ValueError(f"{shown} is not an expression: {error.msg}") from None
    except (MemoryError, RecursionError):
        raise ValueError(
            f"{shown} is nested too deeply; compute parts of it in columns of their own"
        ) from None
    except ValueError as error:
        raise ValueError(f"{shown} {error}") from None


def parse_feature(expression: str) -> Tree:
    """Like `parse`, for expressions computed inside a model. Raises ValueError for what ONNX cannot compute."""
    tree = parse(expression)
    shown = repr(expression)
    for node in walk(tree):
        if isinstance(node, Literal) and isinstance(node.value, str):
            raise ValueError(f"{shown} holds {node.value!r}; inside a model it computes with numbers only")
        if isinstance(node, Literal) and abs(node.value) > _LARGEST_FLOAT:  # type: ignore[arg-type]
            raise ValueError(f"{shown} holds {node.value!r}, which is beyond FP32")
        if not isinstance(node, Call):
            continue
        function = FUNCTIONS.get(node.function)
        if function and not function.in_models:
            raise ValueError(
                f"{shown} uses {node.function}, which a model cannot compute; derive a column with it instead"
            )
        if is_calendar(node) and not isinstance(node.arguments[0], Column):
            raise ValueError(f"{node.function} in {shown} takes a timestamp column, and maybe a time zone")
    if not columns_of(tree):
        raise ValueError(f"{shown} reads no column")
    return tree


class _Builder:
    """Converts Python's syntax tree to ours, and counts the nodes."""

    def __init__(self, columns: dict[str, str]) -> None:
        self._columns = columns
        self._nodes = 0
        self._depth = 0

    def build(self, node: ast.expr) -> Tree:
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES or self._depth > MAX_DEPTH:
            raise ValueError(
                f"is too large: {MAX_NODES} parts and {MAX_DEPTH} levels at most; compute parts in columns of their own"
            )
        known = _BUILD.get(type(node))
        if known is None:
            kind = type(node).__name__
            raise ValueError(f"uses {_SPELLINGS.get(kind, kind)}: expressions do not have it")
        built = known(self, node)
        self._depth -= 1
        return built

    def name(self, node: ast.Name) -> Tree:
        if node.id in self._columns:
            return Column(self._columns[node.id])
        if node.id.startswith("__"):
            raise ValueError(f"reads {node.id!r}; a column of that name goes in backticks")
        return Literal(CONSTANTS[node.id]) if node.id in CONSTANTS else Column(node.id)

    def constant(self, node: ast.Constant) -> Tree:
        value = node.value
        if value is None:
            raise ValueError("holds None; write isnull(column)")
        if not isinstance(value, (bool, int, float, str)):
            raise ValueError(
                f"holds {type(value).__name__} {value!r}; expected a number, a text, True or False"
            )
        return Literal(check_number(value))

    def unary(self, node: ast.UnaryOp) -> Tree:
        inner = self.build(node.operand)
        if isinstance(node.op, ast.Not | ast.Invert):
            return Call("not", (inner,))
        return inner if isinstance(node.op, ast.UAdd) else fold("neg", inner)

    def binary(self, node: ast.BinOp) -> Tree:
        if type(node.op) not in _BINARY:
            raise ValueError(f"uses {type(node.op).__name__}, which expressions do not have")
        return fold(_BINARY[type(node.op)], self.build(node.left), self.build(node.right))

    def boolean(self, node: ast.BoolOp) -> Tree:
        return Call("and" if isinstance(node.op, ast.And) else "or", tuple(map(self.build, node.values)))

    def compare(self, node: ast.Compare) -> Tree:
        """A chain means that each pair holds, as in Python."""
        parts: list[Tree] = []
        left, right = node.left, node.left
        for operation, right in zip(node.ops, node.comparators, strict=True):
            listed = isinstance(right, ast.List | ast.Tuple)
            if isinstance(operation, ast.In | ast.NotIn) or (
                listed and isinstance(operation, ast.Eq | ast.NotEq)
            ):
                found: Tree = Call("isin", (self.build(left), *self._list(right)))
                if isinstance(operation, ast.NotIn | ast.NotEq):
                    found = Call("not", (found,))
            elif type(operation) in _COMPARE:
                found = Call(_COMPARE[type(operation)], (self.build(left), self.build(right)))
            else:
                raise ValueError(
                    f"uses {type(operation).__name__}: expressions do not have it; write isnull(column)"
                )
            parts.append(found)
            left = right
        return parts[0] if len(parts) == 1 else Call("and", tuple(parts))

    def _list(self, node: ast.expr) -> tuple[Tree, ...]:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set) or not node.elts:
            raise ValueError("looks for a value in something that is not a list; write column in [1, 2]")
        items = tuple(self.build(item) for item in node.elts)
        if not all(isinstance(item, Literal) for item in items):
            raise ValueError("has a list with something other than numbers and texts")
        return items

    def call(self, node: ast.Call) -> Tree:
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func)
        if not isinstance(node.func, ast.Name) or node.func.id in self._columns:
            raise ValueError("calls something that is not the name of a function")
        return self._checked(node.func.id, *self._arguments(node))

    def _method(self, node: ast.Call, func: ast.Attribute) -> Tree:
        owner = func.value
        if isinstance(owner, ast.Attribute) and owner.attr in ACCESSORS:
            names = ACCESSORS[owner.attr]
            if func.attr not in names:
                raise ValueError(f"calls an {_unknown(f'function of .{owner.attr}:', func.attr, names)}")
            arguments, named = self._arguments(node)
            return self._checked(names[func.attr], (self.build(owner.value), *arguments), named)
        if func.attr == "astype":
            return self._cast(node, func)
        if func.attr == "isin" and len(node.args) == 1 and not node.keywords:
            return Call("isin", (self.build(owner), *self._list(node.args[0])))
        if func.attr in ON_ALL_ROWS:
            raise ValueError(f"calls {func.attr}(), which needs all rows; expressions see one row at a time")
        if func.attr not in METHODS:
            raise ValueError(f"calls an {_unknown('function', func.attr, METHODS)}")
        arguments, named = self._arguments(node)
        return self._checked(METHODS[func.attr], (self.build(owner), *arguments), named)

    def _cast(self, node: ast.Call, func: ast.Attribute) -> Tree:
        given = node.args[0] if len(node.args) == 1 and not node.keywords else None
        name = given.value if isinstance(given, ast.Constant) else getattr(given, "id", None)
        if name not in CASTS:
            raise ValueError(f"casts to an {_unknown('type', name, CASTS)}")
        return Call(CASTS[str(name)], (self.build(func.value),))

    def _arguments(self, node: ast.Call) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
        named = {str(word.arg): self.build(word.value) for word in node.keywords}
        return tuple(map(self.build, node.args)), named

    def _checked(self, name: str, arguments: tuple[Tree, ...], named: dict[str, Tree] | None = None) -> Tree:
        named = dict(named or {})
        if name not in FUNCTIONS:
            known = [key for key in FUNCTIONS if not key.startswith("dt_")]
            raise ValueError(f"calls an {_unknown('function', name, known)}")
        function = FUNCTIONS[name]
        if not function.least <= len(arguments) <= function.most:
            wanted = f"{function.least}" if function.least == function.most else f"{function.least} or more"
            raise ValueError(f"gives {name} {len(arguments)} arguments, and it takes {wanted}")
        for place in function.literals:
            if place < len(arguments) and not isinstance(arguments[place], Literal):
                raise ValueError(f"gives {name} a computed argument where it takes a literal number or text")
        _check_zone(name, arguments)
        _check_places(name, arguments)
        missing = named.pop("na", None) if name in TEXT_PREDICATES else None
        for key, value in named.items():
            if key not in function.options or not isinstance(value, Literal):
                raise ValueError(f"gives {name} an argument {key!r} that it does not take")
        if function.options:
            arguments += tuple(named.get(key, Literal(value)) for key, value in function.options.items())
        made = function.becomes(*arguments) if function.becomes else Call(name, arguments)
        return Call("coalesce", (made, missing)) if missing else made

    def attribute(self, node: ast.Attribute) -> Tree:
        """Only accessors such as `when.dt.year`."""
        owner = node.value
        if isinstance(owner, ast.Attribute) and owner.attr == "dt":
            if node.attr not in ACCESSORS["dt"]:
                raise ValueError(f"reads an {_unknown('part of .dt:', node.attr, ACCESSORS['dt'])}")
            return Call(ACCESSORS["dt"][node.attr], (self.build(owner.value),))
        raise ValueError(
            f"reads the attribute {node.attr!r}; columns with a dot in their name go in backticks"
        )

    def subscript(self, node: ast.Subscript) -> Tree:
        """Only `text.str[a:b]` and `text.str[a]`."""
        if not isinstance(node.value, ast.Attribute) or node.value.attr != "str":
            raise ValueError("has an index; only .str[a:b] takes one")
        text = self.build(node.value.value)
        if not isinstance(node.slice, ast.Slice):
            return self._checked("get", (text, self.build(node.slice)))
        if node.slice.step is not None:
            raise ValueError("has a step in .str[a:b]; expressions do not have it")
        lower = self.build(node.slice.lower) if node.slice.lower else Literal(0)
        return self._checked(
            "slice", (text, lower, *([self.build(node.slice.upper)] if node.slice.upper else []))
        )


def _unknown(kind: str, name: object, known: Iterable[str]) -> str:
    return unknown_name(kind, name, known).replace("Unknown", "unknown", 1)


def _check_zone(name: str, arguments: tuple[Tree, ...]) -> None:
    zone = arguments[1] if name in CALENDAR and len(arguments) == 2 else None
    if isinstance(zone, Literal) and zone.value not in zoneinfo.available_timezones():
        raise ValueError(f"gives {name} {zone.value!r}; it takes a time zone such as 'America/New_York'")


def _check_places(name: str, arguments: tuple[Tree, ...]) -> None:
    places = arguments[1] if name == "round" and len(arguments) == 2 else Literal(0)
    if isinstance(places, Literal) and (type(places.value) is not int or abs(places.value) > 15):
        raise ValueError(f"rounds to {places.value!r} places; it takes a whole number from -15 to 15")


_BUILD: dict[type[ast.expr], Callable[..., Tree]] = {
    ast.Name: _Builder.name,
    ast.Constant: _Builder.constant,
    ast.UnaryOp: _Builder.unary,
    ast.BinOp: _Builder.binary,
    ast.BoolOp: _Builder.boolean,
    ast.Compare: _Builder.compare,
    ast.Call: _Builder.call,
    ast.Attribute: _Builder.attribute,
    ast.Subscript: _Builder.subscript,
}
