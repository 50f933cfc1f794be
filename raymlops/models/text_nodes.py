"""Columns of texts as ONNX nodes: words, their ids, and which n-grams a text has. Standard operators only.

Texts are cut at spaces and ends of lines into at most `MOST_WORDS` words with a few lines each, so that a long one
costs no more than to walk through it once. The words of training stand in a table as they were written, since no
operator changes case or punctuation alike on all systems; other spellings count as unknown.
"""

import numpy as np
from onnx import TensorProto

from raymlops.features import FittedColumn
from raymlops.onnx_builder import GraphBuilder

MOST_WORDS = 256
_MOST_LINES = 2
"""Ends of lines that are seen in what stands between two spaces."""


def add_words(build: GraphBuilder, column: FittedColumn) -> tuple[str, str, str]:
    """The ids of its words (rows + 1, words) INT64, 0 for unknown and none; the same without the words beside ends of
    lines, in which words that follow each other are neighbours; and the number of words (rows + 1,) INT64.

    The last row is a text of two words: some operators take no empty tensor.
    """
    texts = build.add(
        "Concat", column.name, build.constant(np.array(["a b"], dtype=object), "a_text"), axis=0
    )
    parts, count = build.add_outputs("StringSplit", texts, outputs=2, maxsplit=MOST_WORDS - 1)
    # The padding of lines depends on the other rows, and stands between words: no pair is looked for in them.
    lines, _ = build.add_outputs("StringSplit", parts, outputs=2, delimiter="\n", maxsplit=_MOST_LINES)
    flat = build.add("Flatten", lines, axis=1)
    return _encode(build, column, flat), _encode(build, column, parts), count


def _encode(build: GraphBuilder, column: FittedColumn, words: str) -> str:
    # LabelEncoder takes no empty table.
    keys, ids = ([str(value) for value in column.values], list(column.ids)) if column.values else ([""], [0])
    return build.add(
        "LabelEncoder", words, domain="ai.onnx.ml", keys_strings=keys, values_int64s=ids, default_int64=0
    )


def add_text(build: GraphBuilder, column: FittedColumn) -> str:
    """(rows, numbers) FP32: 1 for each n-gram that a text has and else 0, log(1 + words), and the mean score of its
    n-grams for each output."""
    words, neighbours, count = add_words(build, column)
    parts = []
    for size, ids in ((1, words), (2, neighbours)):
        chosen = [ngram for ngram in column.ngrams if len(ngram) == size]
        if chosen:
            found = build.add(
                "TfIdfVectorizer", ids, mode="TF", min_gram_length=size, max_gram_length=size, max_skip_count=0,
                ngram_counts=[0] * size, ngram_indexes=list(range(len(chosen))),
                pool_int64s=[word for ngram in chosen for word in ngram],
            )  # fmt: skip
            parts.append(build.add("Min", found, build.constant(np.float32(1), "one")))
    more = build.add("Add", build.cast(count, TensorProto.FLOAT), build.constant(np.float32(1), "one"))
    parts.append(build.column(build.add("Log", more)))
    if column.scored:
        parts.append(_add_scores(build, column, words, neighbours))
    return drop_last(build, build.concat(parts))


def _add_scores(build: GraphBuilder, column: FittedColumn, words: str, neighbours: str) -> str:
    """(rows + 1, outputs): the mean score of the n-grams that a text has, 0 without any."""
    outputs, base = len(column.scores[0]), max(column.ids, default=0) + 1
    single = {
        one[0]: scores for one, scores in zip(column.scored, column.scores, strict=True) if len(one) == 1
    }
    table = np.zeros((base, outputs + 1), dtype=np.float32)  # the last column counts
    for word, scores in single.items():
        table[word] = [*scores, 1]
    second = build.constant(np.array([1], dtype=np.int64), "axis")
    total = build.add(
        "ReduceSum", build.add("Gather", build.constant(table, "scores"), words), second, keepdims=0
    )
    pairs = {
        one[0] * base + one[1]: scores[0]
        for one, scores in zip(column.scored, column.scores, strict=True)
        if len(one) == 2 and scores[0]
    }
    if pairs:
        first, last = (_cut(build, neighbours, *ends) for ends in ((0, -1), (1, np.iinfo(np.int64).max)))
        factor = build.constant(np.array(base, dtype=np.int64), "words")
        keys = build.add("Add", build.add("Mul", first, factor), last)
        found = build.add(
            "LabelEncoder", keys, domain="ai.onnx.ml", keys_int64s=list(pairs), values_floats=list(pairs.values()),
            default_float=0.0,
        )  # fmt: skip
        zero = build.constant(np.float32(0), "zero")
        counted = build.cast(build.add("Not", build.add("Equal", found, zero)), TensorProto.FLOAT)
        sums = [build.add("ReduceSum", one, second, keepdims=1) for one in (found, counted)]
        total = build.add("Add", total, build.concat(sums))
    split = build.constant(np.array([outputs, 1], dtype=np.int64), "parts")
    summed, count = build.add_outputs("Split", total, split, outputs=2, axis=1)
    return build.add("Div", summed, build.add("Max", count, build.constant(np.float32(1), "one")))


def _cut(build: GraphBuilder, ids: str, start: int, end: int) -> str:
    """Some of the words."""
    places = [build.constant(np.array([place], dtype=np.int64), "place") for place in (start, end, 1)]
    return build.add("Slice", ids, *places)


def drop_last(build: GraphBuilder, tensor: str) -> str:
    """Without the text that `add_words` added."""
    first, last = (build.constant(np.array([place], dtype=np.int64), "row") for place in (0, -1))
    return build.add("Slice", tensor, first, last)
