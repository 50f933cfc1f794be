"""A hundred thousand senseless expressions, and as many as pandas computes too."""

import contextlib

import pandas as pd
import pytest

from raymlops import expressions
from raymlops.data.column_expressions import evaluate
from raymlops.errors import DataError
from tests import expression_soup, random_expressions


@pytest.mark.timeout(900)
def test_a_hundred_thousand_senseless_expressions_end_with_values_or_a_sentence() -> None:
    table, soup, computed = expression_soup.table(), expression_soup.Soup(0), 0
    for _ in range(100_000):
        text = soup.draw()
        with contextlib.suppress(ValueError):
            expressions.parse_feature(text)
        try:
            found = evaluate(table, text, "derive.x")
            empty = evaluate(table.slice(0, 0), text, "derive.x")
        except DataError:
            continue
        assert (len(found), len(empty)) == (table.num_rows, 0), text
        assert found.type == empty.type, text
        computed += 1
    assert computed > 10_000


@pytest.mark.timeout(900)
@pytest.mark.parametrize("arrow", [False, True])
def test_twenty_thousand_expressions_are_computed_as_by_pandas(arrow: bool) -> None:
    table = random_expressions.table(60, seed=2, nulls=arrow)
    frame = table.to_pandas(types_mapper=pd.ArrowDtype) if arrow else table.to_pandas()
    for seed in range(10_000, 20_000):
        expression = random_expressions.Generator(seed, arrow).draw()
        try:
            expected = frame.eval(expression, engine="python")
        except TypeError:  # pandas joins no constant with a condition of arrow's
            continue
        random_expressions.check_values(evaluate(table, expression, "x"), expected, expression)
