"""A window of rows is compared with a reference: columns that changed are named, and chance is not."""

import numpy as np
import numpy.typing as npt
import pytest

from raymlops.errors import ArtifactError
from raymlops.monitoring import comparison
from raymlops.monitoring.reference import Reference, make_reference
from raymlops.monitoring.row_values import find_texts, read_answers, read_inputs

Values = dict[str, npt.NDArray[np.generic]]


def make_rows(rows: int, seed: int) -> Values:
    random = np.random.default_rng(seed)
    level = random.normal(size=rows)
    amount = np.exp(random.normal(size=rows))
    amount[random.random(rows) < 0.02] = np.nan
    return {
        "level": level,
        "tied": 2 * level + 0.1 * random.normal(size=rows),
        "amount": amount,
        "kind": random.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1]).astype(object),
        "probability": 1 / (1 + np.exp(-level)),
    }


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make_reference(make_rows(8000, 0), {"probability": "score"})


def compare(reference: Reference, rows: Values) -> comparison.Comparison:
    return comparison.compare(reference, reference.count(rows), len(rows["level"]), level=0.01)


def test_rows_of_the_same_kind_do_not_differ_more_often_than_asked(reference: Reference) -> None:
    maxima = comparison.simulate_maxima(reference, 1000)
    found = [
        comparison.compare(
            reference, reference.count(make_rows(1000, seed)), 1000, level=0.1, maxima=maxima
        ).differs
        for seed in range(1, 61)
    ]
    assert sum(found) <= 14  # 6 are expected; more than 14 in one of 600 such runs


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("amount", lambda values: np.where(np.arange(len(values)) % 20 == 0, np.nan, values), "missing"),
        ("amount", lambda values: values * 1000, "median"),
        ("amount", lambda values: np.full(len(values), 1.5), "median"),
        ("kind", lambda values: np.where(np.arange(len(values)) % 50 == 0, "z", values), "does not have"),
        ("kind", lambda values: np.where(values == "a", "b", values), "are b"),
        ("level", lambda values: values + 0.04, "given the other columns"),
        ("tied", lambda values: values - 0.06, "given the other columns"),
    ],
)
def test_the_column_that_changed_is_named_first(
    reference: Reference, column: str, change, words: str
) -> None:  # type: ignore[no-untyped-def]
    rows = make_rows(2000, 11)
    found = compare(reference, {**rows, column: change(rows[column])})
    assert found.findings[0].column.name == column
    assert words in found.describe()
    assert found.chance < 1e-4


def test_a_reference_is_the_same_after_it_was_stored_and_broken_files_are_refused(
    reference: Reference,
) -> None:
    stored = reference.to_bytes()
    loaded = Reference.from_bytes(stored)
    assert loaded.to_bytes() == stored
    rows = make_rows(500, 3)
    assert (loaded.count(rows) == reference.count(rows)).all()
    for broken in (
        b"",
        b"PK",
        stored[:100],
        stored[: len(stored) // 2],
        stored.replace(b"reference.json", b"referenc2.json"),
    ):
        with pytest.raises(ArtifactError, match="make it again"):
            Reference.from_bytes(broken)


def test_counts_of_shards_add_to_those_of_the_whole_with_sums_of_residuals(reference: Reference) -> None:
    rows = make_rows(999, 5)
    shards = [
        reference.count({name: values[place] for name, values in rows.items()})
        for place in np.array_split(np.arange(999), 8)
    ]
    assert (sum(reversed(shards)) == reference.count(rows)).all()


def test_texts_images_and_vectors_become_numbers_that_faults_change() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (400, 12, 12, 3)).astype(np.uint8)
    images = images // 4 + np.linspace(0, 150, 12).astype(np.uint8)[None, :, None, None]
    words = ["the delivery was late again", "a good product at a fair price", "never again this shop"]
    texts = np.array([f"{words[place % 3]} {'very ' * (place % 7)}{place}" for place in range(400)], object)
    batch = {"image": images, "text": texts, "place": random.normal(size=(400, 2))}
    answers = {"probabilities": random.dirichlet(np.ones(4), 400).astype(np.float32)}

    def read(batch: Values) -> Values:
        return {**read_inputs(batch, known), **read_answers(answers, 400)}

    known = find_texts(batch)
    assert set(known.words) == {"text"}
    made = make_reference(read(batch), {})
    assert not comparison.compare(made, made.count(read(batch)), 400).differs
    blurred = images.astype(float)
    blurred[:, 1:-1] = (blurred[:, :-2] + blurred[:, 1:-1] + blurred[:, 2:]) / 3
    faults = {
        "image: sharpness": {"image": blurred.astype(np.uint8)},
        "image": {"image": 255 - images},
        "text": {"text": np.array([str(text)[::-1] for text in texts], object)},
        "place[1]": {"place": batch["place"] + [0.0, 1.0]},
    }
    for name, changed in faults.items():
        found = comparison.compare(made, made.count(read({**batch, **changed})), 400)
        assert any(one.column.name.startswith(name) for one in found.findings), name


def test_columns_that_only_tell_the_time_are_not_watched_and_say_so() -> None:
    random = np.random.default_rng(0)
    hours = np.sort(random.integers(0, 24 * 200, 4000))
    times = np.datetime64("2024-01-01T00", "us") + hours * np.timedelta64(3_600_000_000, "us")
    local = times - np.timedelta64(5, "h")
    values = {
        "month": (local.astype("datetime64[M]").astype(int) % 12 + 1).astype(float),
        "day": (local.astype("datetime64[D]") - local.astype("datetime64[M]")).astype(int) + 1,
        "hour": hours % 24,
        "weekday": (hours // 24) % 7,
        "id": np.cumsum(random.integers(1, 5, 4000)),
        "temp": 10 + hours / 400 + random.normal(size=4000),  # rises, but tells more
    }
    found = make_reference(values, {}, times=times)
    assert set(found.left_out) == {"month", "day", "id"}
    assert "the month of a row" in found.left_out["month"]
    assert len(found.days)
    few = make_reference(values, {}, times=np.sort(times)[:1].repeat(4000))
    assert not len(few.days)  # one day says nothing of how days differ


def test_values_that_came_into_other_rows_name_their_own_column() -> None:
    """They move no mean, and all columns that are tied to it no longer follow."""

    def make(rows: int, seed: int) -> Values:
        random = np.random.default_rng(seed)
        parts = {name: np.exp(random.normal(0, 0.5, rows)) for name in ("a", "b", "c", "d")}
        total = np.sum(list(parts.values()), axis=0) + 0.7 * random.normal(size=rows)
        return {**parts, "total": total, "tenfold": 10 * parts["a"]}

    held = make_reference(make(8000, 0), {})
    mixed = make(2000, 1)
    mixed["total"][:400] = np.random.default_rng(2).permutation(mixed["total"][:400])
    found = comparison.compare(held, held.count(mixed), 2000)
    assert len(found.findings) > 1
    assert found.findings[0].column.name == "total"
    usual = held.residuals.find(np.stack(list(make(8000, 0).values()), axis=1)) / held.residuals.spreads
    assert np.abs(usual.mean(axis=0)).max() < 0.05  # of columns that others explain wholly, too
