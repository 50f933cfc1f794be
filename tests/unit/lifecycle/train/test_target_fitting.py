"""Target means and n-grams from blocks of rows, without a cluster."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from raymlops.data import statistics
from raymlops.data.fitting import fit_features, measure_block
from raymlops.features import VECTORS, FittedColumn, FittedFeatures, FittedTarget
from raymlops.lifecycle.train import target_fitting
from raymlops.lifecycle.train.row_encoding import Dealing, FoldEncoders, encode_block
from raymlops.models import encoder
from raymlops.specs.dataset import ContractSpec
from raymlops.specs.features import FeaturesSpec
from raymlops.tensors import Array

TENSORS = ("plain",)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """As `stages.fit` and `stages.encode` do it with the blocks of a dataset."""

    features: FittedFeatures
    folds: FoldEncoders

    def encode(self, table: pa.Table, *, training: bool = False) -> Array:
        model = encoder.build_encoder(self.features, TENSORS).SerializeToString()
        return encode_block(table, self.features, model, folds=self.folds if training else None)["plain"]


def fit(blocks: list[pa.Table], features: dict[str, Any], weights: str | None = None) -> Fitted:
    spec = FeaturesSpec.model_validate(features)
    kinds = {name: feature.kind for name, feature in spec.by_column().items()}
    total: dict[str, Any] = {}
    for block in blocks:
        part = measure_block(block, kinds, spec.target, (), None)
        types = part.pop("types")
        total = statistics.merge_all(total, part)
    fitted = fit_features({**total, "types": types}, spec, ContractSpec())
    if not fitted.of_kind(*VECTORS):
        return Fitted(fitted, FoldEncoders((), DEALING))
    chosen = target_fitting.narrow_features(fitted, VECTORS)
    codes = encoder.build_codes(chosen).SerializeToString()
    measured: target_fitting.Measured = {}
    for block in blocks:
        part = target_fitting.measure_block(block, chosen, codes, weights, DEALING)
        target_fitting.add_measured(measured, part)
    found = target_fitting.complete_features(fitted, measured, spec)
    return Fitted(found, target_fitting.make_fold_encoders(found, measured, DEALING, TENSORS))


DEALING = Dealing(frozenset(("user", "text", "x")), together=False)
MEANS = {"target": {"column": "y"}, "columns": {"user": {"kind": "category", "encoding": "means"}}}
"""The only column: rows with one value are told apart by their number alone."""


def noise(rows: int = 4000, values: int = 400, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    users = [f"u{value}" for value in draw.integers(0, values, rows)]
    return pa.table({"user": users, "y": draw.integers(0, 2, rows), "x": draw.normal(size=rows)})


def test_a_training_row_never_finds_its_own_target_in_the_mean_of_its_value() -> None:
    table = noise()
    fitted = fit([table], MEANS)
    own = fitted.encode(table, training=True)[:, 0]
    labels = table["y"].to_numpy()
    for row in (0, 17, 3999):
        flipped = labels.copy()
        flipped[row] = 1 - flipped[row]
        changed = table.set_column(1, "y", pa.array(flipped))
        assert fit([changed], MEANS).encode(changed, training=True)[row, 0] == own[row]
    # The means of all rows would tell the target of noise.
    assert roc_auc_score(labels, fitted.encode(table)[:, 0]) > 0.55
    assert abs(roc_auc_score(labels, own) - 0.5) < 0.03


def test_the_mean_of_a_value_is_that_of_its_rows_drawn_to_all_and_that_of_others_is_of_all() -> None:
    table = noise(500, 20)
    frame = table.to_pandas()
    found = fit([table.slice(0, 200), table.slice(200)], MEANS)
    counted = frame.groupby("user").y.agg(["sum", "count"])
    expected = (counted["sum"] + 20 * frame.y.mean()) / (counted["count"] + 20)
    users = [*expected.index, "unseen", None, ""]
    answers = found.encode(pa.table({"user": users, "y": [0] * len(users), "x": [0.0] * len(users)}))
    np.testing.assert_allclose(answers[:-3, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(answers[-3:, 0], frame.y.mean(), rtol=1e-6)


def test_missing_values_have_a_mean_of_their_own_where_training_had_some() -> None:
    users = [None] * 100 + ["a"] * 50 + ["b"] * 50
    table = pa.table({"user": users, "y": [1] * 100 + [0, 1] * 50, "x": [0.0] * 200})
    found = fit([table], MEANS).encode(table)[:, 0]
    assert found[0] > 0.9
    assert found[-1] < 0.7


@pytest.mark.parametrize("target", ["classes", "numbers"])
def test_texts_have_a_score_for_each_class_or_for_a_number(target: str) -> None:
    draw = np.random.default_rng(4)
    labels = draw.integers(0, 3, 900)
    texts = [f"{draw.choice(list('abcdef'))} word{label}" for label in labels]
    values = [f"c{label}" for label in labels] if target == "classes" else labels + 0.5 * draw.random(900)
    table = pa.table({"text": texts, "y": values, "x": draw.normal(size=900)})
    scores = fit([table], {"target": {"column": "y"}, "texts": ["text"]}).encode(table)
    if target == "classes":
        assert (scores[:, -3:].argmax(axis=1) == labels).mean() > 0.95
    else:
        assert np.corrcoef(scores[:, -1], labels)[0, 1] > 0.9


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_of_several_classes_each_has_a_mean(kind: pa.DataType) -> None:
    draw = np.random.default_rng(1)
    users = draw.integers(0, 30, 3000)
    labels = (users + (draw.random(3000) < 0.3) * draw.integers(0, 3, 3000)) % 3
    table = pa.table(
        {
            "user": pa.array(users).cast(kind),
            "y": [f"c{label}" for label in labels],
            "x": draw.normal(size=3000),
        }
    )
    means = fit([table], MEANS).encode(table)
    assert means.shape == (3000, 3)
    np.testing.assert_allclose(means.sum(axis=1), 1, rtol=1e-5)
    assert (means.argmax(axis=1) == labels).mean() > 0.7


def test_rows_weigh_as_their_weights_say() -> None:
    table = noise(1000, 10)
    doubled = pa.concat_tables([table, table])
    weighed = table.append_column("w", pa.array([2.0] * 1000))
    several = fit([weighed], MEANS, weights="w").encode(table)
    np.testing.assert_allclose(several, fit([doubled], MEANS).encode(table), rtol=1e-6)


def test_blocks_in_any_number_give_the_same_means() -> None:
    table = noise(900, 50)
    parts = [table.slice(start, 300) for start in (0, 300, 600)]
    np.testing.assert_allclose(fit(parts, MEANS).encode(table), fit([table], MEANS).encode(table), rtol=1e-6)


def test_a_text_is_read_by_the_words_and_pairs_that_tell_of_the_target() -> None:
    draw = np.random.default_rng(2)
    labels = draw.integers(0, 2, 2000)
    words = [f"w{place}" for place in range(40)]
    texts: list[str | None] = []
    for label in labels:
        said = ["not", "good"] if label else ["good", "not"]  # the same words in another order
        texts.append(" ".join([*draw.choice(words, 6), *said, *draw.choice(words, 2)]).capitalize() + "!")
    texts[5] = None
    table = pa.table({"text": texts, "y": labels, "x": draw.normal(size=2000)})
    found = fit([table], {"target": {"column": "y"}, "texts": ["text"]})
    (column,) = found.features.of_kind("text")
    spelled = {number: value for value, number in zip(column.values, column.ids, strict=True)}
    named = [" ".join(str(spelled[word]) for word in ngram) for ngram in column.ngrams]
    assert {"not good", "good not"} <= set(named)
    encoded = found.encode(table)
    assert roc_auc_score(labels, encoded[:, named.index("not good")]) > 0.95
    assert len(named) == 40  # a fiftieth of the rows
    assert pd.Series(named).is_unique
    own = found.encode(table, training=True)
    np.testing.assert_array_equal(encoded[:, :-1], own[:, :-1])
    assert roc_auc_score(labels, own[:, -1]) > 0.95  # the mean score


def test_a_training_row_never_finds_its_own_target_in_the_score_of_its_text() -> None:
    draw = np.random.default_rng(3)
    texts = [" ".join(f"w{word}" for word in draw.integers(0, 3000, 8)) for _ in range(3000)]
    labels = draw.integers(0, 2, 3000)
    table = pa.table({"text": texts, "y": labels, "x": draw.normal(size=3000)})
    features = {"target": {"column": "y"}, "texts": ["text"]}
    found = fit([table.slice(0, 1000), table.slice(1000)], features)
    own = found.encode(table, training=True)[:, -1]
    assert roc_auc_score(labels, found.encode(table)[:, -1]) > 0.8  # of noise
    assert abs(roc_auc_score(labels, own) - 0.5) < 0.04
    flipped = labels.copy()
    flipped[7] = 1 - flipped[7]
    changed = table.set_column(1, "y", pa.array(flipped))
    again = fit([changed.slice(0, 1000), changed.slice(1000)], features).encode(changed, training=True)[7, -1]
    assert again == pytest.approx(own[7], abs=0.01)  # the mean of all moved a little


def test_hashed_values_share_places() -> None:
    features = {
        "target": {"column": "y"},
        "columns": {"user": {"kind": "category", "encoding": "hash", "buckets": 16}},
    }
    table = noise(1000, 300)
    found = fit([table], features)
    model = encoder.build_encoder(found.features, ("category",)).SerializeToString()
    ids = encode_block(table, found.features, model)["category"][:, 0]
    assert set(ids) <= set(range(17))
    assert len(set(ids)) > 12
    unseen = pa.table({"user": ["unseen", None], "y": [0, 1]})
    assert encode_block(unseen, found.features, model)["category"].tolist() == [[0], [0]]


def test_values_of_an_expression_have_means_too() -> None:
    columns = (
        FittedColumn("x", "number", "number"),
        FittedColumn("other", "number", "number"),
        FittedColumn("whole", "means", "integer", values=(0, 1), expression="floor(x)"),
    )
    target = FittedTarget("y", "binary", "integer", (0, 1), (0.5, 0.5))
    features = FittedFeatures(columns, target)
    chosen = target_fitting.narrow_features(features, VECTORS)
    assert [column.name for column in chosen.columns] == ["x", "whole"]
    table = pa.table({"x": [0.5, 1.5, 0.25, 7.0], "y": [0, 1, 0, 1]})
    codes = encoder.build_codes(chosen).SerializeToString()
    measured = target_fitting.measure_block(table, chosen, codes, None, DEALING)
    spec = FeaturesSpec.model_validate({"target": {"column": "y"}, "numbers": ["x"]})
    (found,) = target_fitting.complete_features(features, measured, spec).of_kind("means")
    assert found.prior == (0.5,)
    assert found.means[0] < (0.5,) < found.means[1]
