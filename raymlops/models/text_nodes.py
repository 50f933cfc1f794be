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
_MOST_LINES = 3
"""Ends of lines that are seen in what stands between two spaces."""


def add_words(build: GraphBuilder, column: FittedColumn) -> tuple[str, str, str]:
    """The ids of its words (rows + 1, words) INT64, 0 for unknown and none; the same without the words beside ends of
    lines, in which words that follow each other are neighbours; and the number of words (rows + 1,) INT64.

    The last row is an empty text: some operators take no empty tensor.
    """
    texts = build.add("Concat", column.name, build.constant(np.array([""], dtype=object), "no_text"), axis=0)
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
    """(rows, numbers) FP32: 1 for each n-gram that a text has and else 0, and log(1 + words)."""
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
    return drop_last(build, build.concat(parts))


def drop_last(build: GraphBuilder, tensor: str) -> str:
    """Without the empty text of `add_words`."""
    first, last = (build.constant(np.array([place], dtype=np.int64), "row") for place in (0, -1))
    return build.add("Slice", tensor, first, last)
