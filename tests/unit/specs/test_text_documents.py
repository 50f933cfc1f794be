"""YAML and JSON that anybody may have written are read with budgets, and as data only."""

import random

import pytest
import yaml

from raymlops.errors import SpecError
from raymlops.specs.document import apply_override, read_json, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}\n" for level in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"f\.yaml:\d+: the document has more than 200,000 values"),
        (MERGES, "more than 200,000 values"),
        ("a: &x 1\nb: [" + "*x, " * 1500 + "*x]", "1,000 aliases"),
        ("a: &x {b: [*x]}", r"f\.yaml:1: the alias \*x stands inside of what it names"),
        ("[" * 5000, "nested deeper than 60 levels"),
        ("- " * 5000 + "a", "nested deeper than 60 levels"),
        ("a: 1\nb: {c: 1, c: 2}", r"f\.yaml:2: key 'c' is given twice; keep one"),
        ("yes: 1\ntrue: 2", "is given twice"),
        ("a: !!python/object/apply:os.system [id]", "the tag .*python.* is not allowed"),
        ("%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system", "is not allowed"),
        ("a: !custom 1", "is not allowed"),
        ("a: 2024-13-01", "is not valid YAML: month must be"),
        ("a: " + "9" * 6000, "is not valid YAML"),
        ("{[1]: 2}", "is not valid YAML"),
        ("a: " + "x" * 9_000_000, "characters; a document has"),
        ("a: \x00", "is not valid YAML"),
    ],
)
def test_what_is_more_than_a_document_of_people_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_yaml(text, "f.yaml")


def test_what_people_write_is_read_as_before() -> None:
    text = "base: &base {a: 1, b: [x, 'y']}\nmore: {<<: *base, b: 2}\nwhen: 2024-01-02\nflag: yes\ntext: |\n  a\n"
    assert read_yaml(text)[0] == yaml.safe_load(text)
    assert read_yaml("")[0] is None
    drawn = random.Random(0)
    for _ in range(200):
        value = _draw(drawn, 4)
        assert read_yaml(yaml.safe_dump(value, default_flow_style=drawn.random() < 0.5))[0] == value


def _draw(drawn: random.Random, depth: int) -> object:
    leaves = [None, True, 3, -1.5, "x", "no", "1", "a: b", "é\n", ""]
    if depth == 0 or drawn.random() < 0.3:
        return drawn.choice(leaves)
    if drawn.random() < 0.5:
        return [_draw(drawn, depth - 1) for _ in range(drawn.randrange(4))]
    return {f"k{place}": _draw(drawn, depth - 1) for place in range(drawn.randrange(4))}


def test_values_of_overrides_have_the_same_budget() -> None:
    with pytest.raises(SpecError, match="is not a YAML value"):
        apply_override({}, "a.b=!!python/name:os.system")
    with pytest.raises(SpecError, match="is not a YAML value"):
        apply_override({}, "a.b=" + "[" * 5000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested deeper than 60 levels"),
        ('{"reader": "csv", "reader": "os:system"}', "the key 'reader' is given twice"),
        ("{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        ("9" * 5000, "is not valid JSON"),
    ],
)
def test_recorded_json_is_data_of_a_bounded_depth(text: str | bytes, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_json(text, "the spec")
