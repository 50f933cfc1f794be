"""Thousands of random graphs, and all that onnx makes for each operator: rows answer alike alone and beside others."""

from tests import row_checks


def test_thousands_of_random_graphs_answer_alike_alone_and_beside_others() -> None:
    count = row_checks.check_random_graphs(1_000, 7_000)
    print(f"{count.models} graphs, {count.proven} proven, {count.ran} runs")
    assert count.differing == []
    assert count.proven > 2_000


def test_every_model_that_onnx_generates_answers_alike_alone_and_beside_others() -> None:
    count = row_checks.check_corpus(most_free=4, quick=False)
    print(f"{count.models} models, {count.proven} proven, {count.ran} runs")
    assert count.differing == []
    assert count.ran > 700
