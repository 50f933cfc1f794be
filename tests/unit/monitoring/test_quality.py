"""Quality of answers: estimated from scores where that is fair, measured from labels, and labels tested for changes."""

import dataclasses
import io
import json
import math
import zipfile

import numpy as np
import numpy.typing as npt
import pytest

from raymlops.errors import ArtifactError
from raymlops.metrics import measure
from raymlops.monitoring import quality
from raymlops.monitoring.calibration import Calibration, Labels, fit_isotonic
from raymlops.monitoring.reference import Reference, make_reference

Values = dict[str, npt.NDArray[np.generic]]


def make_rows(rows: int, seed: int, shift: float = 0.0) -> tuple[Values, npt.NDArray[np.float64]]:
    """Rows with a score, and their labels: `shift` moves the rows, not what a label depends on."""
    random = np.random.default_rng(seed)
    x = random.normal(shift, 1.0, rows)
    chance = 1 / (1 + np.exp(-1.5 * x + 0.5))
    label = (random.random(rows) < chance).astype(np.float64)
    return {"x": x, "probability": chance**1.3}, label  # the score is not calibrated


def to_labels(values: Values, label: npt.NDArray[np.float64]) -> Labels:
    return Labels.of_answers("binary", "probability", "late", values["probability"], label)


@pytest.fixture(scope="module")
def reference() -> Reference:
    values, label = make_rows(20_000, 0)
    return make_reference(values, {"probability": "score"}, labels=to_labels(values, label))


def calibration_of(reference: Reference) -> Calibration:
    assert reference.calibration is not None
    return reference.calibration


@pytest.mark.parametrize("shift", [0.0, -0.4, 0.5])
def test_where_only_rows_move_the_estimate_is_near_what_labels_say_later(
    reference: Reference, shift: float
) -> None:
    values, label = make_rows(30_000, 5, shift)
    true = measure("binary", label.astype(int), values["probability"])
    for one in quality.estimate_quality(reference, reference.count(values)):
        assert one.kind == "estimate"
        assert abs(one.value - true[one.metric]) < 0.01
        assert one.low < true[one.metric] < one.high
        assert "is estimated at" in one.describe()
        assert "no times" in one.why  # of a reference without days the interval knows no days
    measured = quality.measure_quality(
        calibration_of(reference), calibration_of(reference).count(to_labels(values, label))
    )
    for one in measured:
        assert one.kind == "measured"
        assert abs(one.value - true[one.metric]) < 0.003  # of 20 bins, not of each score


def test_without_ground_there_is_no_estimate_but_the_reason(reference: Reference) -> None:
    far, _ = make_rows(3000, 6, 3.0)
    few, _ = make_rows(50, 6)
    lost = {"x": make_rows(3000, 6)[0]["x"]}
    for values, reason in ((far, "few reference rows"), (few, "too few"), (lost, "have no score")):
        found = quality.estimate_quality(reference, reference.count(values))
        assert all(one.is_silent and reason in one.describe() for one in found)
        assert found[0].to_json()["value"] is None
    unlabelled = dataclasses.replace(reference, calibration=None)
    assert quality.estimate_quality(unlabelled, reference.count(few)) == []
    nothing = quality.measure_quality(
        calibration_of(reference), calibration_of(reference).count(to_labels(few, np.full(50, np.nan)))
    )
    assert "no row has a label" in nothing[0].describe()


def test_days_that_differ_widen_the_interval() -> None:
    values, label = make_rows(20_000, 0)
    days = np.repeat(np.arange(100), 200)
    random = np.random.default_rng(1)
    worse = np.isin(days, random.choice(100, 40, replace=False)) & (random.random(20_000) < 0.4)
    label = np.where(worse, random.integers(0, 2, 20_000), label)
    times = days.astype("datetime64[D]").astype("datetime64[us]")
    roles = {"probability": "score"}
    dated = make_reference(values, roles, labels=to_labels(values, label), times=times)  # type: ignore[arg-type]
    plain = make_reference(values, roles, labels=to_labels(values, label))  # type: ignore[arg-type]
    rows = make_rows(2000, 4)[0]
    wide, narrow = (quality.estimate_quality(one, one.count(rows))[0] for one in (dated, plain))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert not wide.why


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_labels_that_did_not_change_are_no_finding_and_changed_ones_are(task: str) -> None:
    def draw(
        rows: int, seed: int, change: str = ""
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        random = np.random.default_rng(seed)
        if task == "regression":
            answers = random.normal(size=rows)
            noise = random.normal(size=rows) * (0.5 + (answers > 0))
            noise = {"": noise, "level": noise + 0.2, "slope": 1.4 * noise}[change]
            return answers, answers + noise
        rates = random.dirichlet([0.6] * 3, rows) if task == "multiclass" else None
        chance = random.beta(1, 2, rows) if rates is None else rates.max(axis=1)
        height = np.log(chance / (1 - chance))
        real = {"": height, "level": height + 0.4, "slope": 0.5 * height - 0.2}[change]
        right = random.random(rows) < 1 / (1 + np.exp(-real))
        if rates is None:
            return chance, right.astype(np.float64)
        top = rates.argmax(axis=1)
        return rates, np.where(right, top, (top + 1) % 3).astype(np.float64)

    answers, label = draw(10_000, 0)
    labels = Labels.of_answers(task, "score", "y", answers, label)  # type: ignore[arg-type]
    held = make_reference({"score": labels.scores}, {"score": "score"}, labels=labels)
    calibration = calibration_of(held)

    def find(rows: int, seed: int, change: str = "") -> npt.NDArray[np.floating]:  # type: ignore[type-arg]
        drawn = Labels.of_answers(task, "score", "y", *draw(rows, seed, change))  # type: ignore[arg-type]
        return quality.find_label_deviates(calibration, calibration.count(drawn).counts)

    # the reference's own error is in each window, so that one reference cannot show the rate well: many windows of
    # many rows differ by the same; windows of few rows do not
    null = np.stack([find(800, seed) for seed in range(1, 301)])
    assert ((null > 2.326).mean(axis=0) < 0.04).all()
    assert find(1500, 900, "level")[0] > 4
    assert find(1500, 901, "slope")[1] > 3.5
    assert calibration.count(labels).rows == 10_000


def test_counts_of_labels_add_in_any_order_and_the_table_is_kept_with_the_reference(
    reference: Reference,
) -> None:
    calibration = calibration_of(reference)
    values, label = make_rows(900, 3)
    whole = calibration.count(to_labels(values, label))
    parts = [
        calibration.count(to_labels(values, label).take(slice(start, start + 300))) for start in (600, 0, 300)
    ]
    total = parts[0] + parts[1] + parts[2]
    assert (total.counts == whole.counts).all()
    assert np.allclose(total.sums, whole.sums)
    stored = reference.to_bytes()
    loaded = Reference.from_bytes(stored)
    assert loaded.to_bytes() == stored
    counted = reference.count(values)
    assert quality.estimate_quality(loaded, counted) == quality.estimate_quality(reference, counted)
    broken = dataclasses.replace(calibration, bins=calibration.bins[1:])
    with pytest.raises(ArtifactError, match="calibration"):
        Reference.from_bytes(dataclasses.replace(reference, calibration=broken).to_bytes())


def test_a_rare_class_keeps_its_ranking_in_20_bins() -> None:
    random = np.random.default_rng(0)
    label = (random.random(20_000) < 0.02).astype(np.float64)
    score = 1 / (1 + np.exp(-(random.normal(size=20_000) + 3 * label - 5)))
    labels = Labels.of_answers("binary", "score", "fraud", score, label)
    calibration = calibration_of(make_reference({"score": score}, {"score": "score"}, labels=labels))
    found = quality.find_metrics(calibration, calibration.table)
    assert abs(found["roc_auc"] - measure("binary", label.astype(int), score)["roc_auc"]) < 0.003


def test_rates_never_fall_and_an_estimate_follows_the_labels_where_that_was_closer() -> None:
    rates = fit_isotonic(np.array([0.0, 1, 5, 2, 0, 9]), np.array([0.0, 10, 10, 10, 0, 10]))
    assert rates.tolist() == pytest.approx([0.1, 0.1, 0.35, 0.35, 0.35, 0.9])
    estimate = quality.Quality("roc_auc", "estimate", 0.75, 0.74, 0.76, 0.75, 1000)
    past = [(0.75, 0.70), (0.75, 0.69), (0.74, 0.70), (0.75, 0.70), (0.76, 0.70)]
    followed = quality.correct_estimate(estimate, past)
    assert followed.value == pytest.approx(0.69)
    assert followed.low < 0.69 < followed.high
    noisy = [(0.75, 0.79), (0.75, 0.71), (0.75, 0.78), (0.75, 0.72), (0.75, 0.79)]
    assert quality.correct_estimate(estimate, noisy).value == 0.75
    silent = dataclasses.replace(estimate, value=math.nan, why="no ground")
    assert quality.correct_estimate(silent, past).is_silent


def test_references_of_before_are_read_and_estimate_nothing(reference: Reference) -> None:
    plain = dataclasses.replace(reference, calibration=None, means={})
    old = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain.to_bytes())) as archive, zipfile.ZipFile(old, "w") as written:
        for name in archive.namelist():
            data = archive.read(name)
            if name == "reference.json":
                head = json.loads(data)
                assert head["format"] == 2
                kept = {key: one for key, one in head.items() if key not in ("calibration", "means")}
                data = json.dumps({**kept, "format": 1}).encode()
            written.writestr(name, data)
    loaded = Reference.from_bytes(old.getvalue())
    values, _ = make_rows(500, 1)
    assert (loaded.count(values) == reference.count(values)).all()
    assert quality.estimate_quality(loaded, loaded.count(values)) == []
