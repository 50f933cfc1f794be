"""Texts in the graph, beside the same in Python."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from raymlops.features import FittedColumn, FittedFeatures, table_to_batch
from raymlops.models import encoder
from raymlops.models.session import Session, open_session
from raymlops.models.text_nodes import MOST_WORDS
from tests import feature_tables

WORDS = ("good", "Good", "bad,", "É", "😀", "not")
NGRAMS = ((1,), (2,), (3,), (4,), (5, 1), (1, 1))
SCORES = {(1,): 0.5, (3,): -1.25, (5,): 0.0, (5, 1): 2.0, (1, 1): -0.75}
COLUMN = FittedColumn(
    "text", "text", "string", values=WORDS, ids=(1, 1, 2, 3, 4, 5), ngrams=NGRAMS, scored=tuple(SCORES),
    scores=tuple((score,) for score in SCORES.values()), centre=(0.0,) * 8, spread=(1.0,) * 8,
)  # fmt: skip
FEATURES = FittedFeatures((COLUMN,), feature_tables.BINARY)


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(encoder.build_encoder(FEATURES, ("plain",)).SerializeToString())


def encode(session: Session, texts: list[str | None]) -> np.ndarray:
    table = pa.table({"text": pa.array(texts, pa.string())})
    return encoder.run_encoder(session, table_to_batch(table, FEATURES))["plain"]


def in_python(text: str | None) -> list[float]:
    parts = [part for part in (text or "").split(" ") if part]
    if len(parts) > MOST_WORDS:
        parts = [*parts[: MOST_WORDS - 1], " ".join(parts[MOST_WORDS - 1 :])]
    ids = dict(zip(WORDS, COLUMN.ids, strict=True))
    lines = {ids.get(line, 0) for part in parts for line in part.split("\n", 2)}
    known = [ids.get(part, 0) for part in parts]
    pairs = set(itertools.pairwise(known))
    has = [ngram[0] in lines if len(ngram) == 1 else ngram in pairs for ngram in NGRAMS]
    lengths = float(np.log(np.float32(1 + len(parts))))
    ngrams = [(ids.get(line, 0),) for part in parts for line in part.split("\n", 2)]
    ngrams += list(itertools.pairwise(known))
    found = [SCORES[ngram] for ngram in ngrams if ngram in SCORES]
    return [*map(float, has), lengths, sum(found) / max(1, len(found))]


pieces = st.sampled_from([*WORDS, " ", "  ", "\n", "\t", "nan", "None", "\u00a0", "x" * 50, "\x00"])
texts = st.one_of(
    st.none(), st.text(max_size=40), st.lists(pieces, max_size=12).map("".join),
    st.lists(pieces, max_size=12).map(" ".join),
)  # fmt: skip


@given(rows=st.lists(texts, max_size=12))
def test_a_text_has_the_ngrams_that_python_finds(session: Session, rows: list[str | None]) -> None:
    found = encode(session, rows)
    assert found.shape == (len(rows), 8)
    np.testing.assert_allclose(found, np.array([in_python(row) for row in rows]).reshape(-1, 8), rtol=1e-6)


@given(rows=st.lists(texts, min_size=2, max_size=6))
def test_the_answer_to_a_text_does_not_depend_on_the_others(session: Session, rows: list[str | None]) -> None:
    together = encode(session, rows)
    np.testing.assert_array_equal(together, np.concatenate([encode(session, [row]) for row in rows]))


@pytest.mark.parametrize("unit", ["a ", "good ", "x", "\n", " ", "a\n", "😀"])
def test_ten_megabytes_of_text_are_cut(session: Session, unit: str) -> None:
    text = unit * (10_000_000 // len(unit.encode()))
    (found,) = encode(session, [text])
    assert found[-2] <= np.log(np.float32(1 + MOST_WORDS)) + 1e-6
    assert found[0] == float("good" in text)


def test_a_text_of_which_no_word_says_anything_is_its_length() -> None:
    column = FittedColumn("text", "text", "string", centre=(1.0,), spread=(0.5,))
    features = FittedFeatures((column,), feature_tables.BINARY)
    assert FittedFeatures.from_json(features.to_json()) == features
    session = open_session(encoder.build_encoder(features, ("numeric",)).SerializeToString())
    found = encoder.run_encoder(session, {"text": np.array(["one two", ""], dtype=object)})["numeric"]
    np.testing.assert_allclose(found[:, 0], (np.log([3, 1]) - 1) / 0.5, rtol=1e-6)


def test_features_with_texts_are_read_as_they_were_written() -> None:
    assert FittedFeatures.from_json(FEATURES.to_json()) == FEATURES
