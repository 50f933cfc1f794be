"""What is watched of inputs and answers of any shape, and why some are not."""

import numpy as np
import pytest

from raymlops.monitoring.comparison import compare, simulate_maxima
from raymlops.monitoring.reference import make_reference
from raymlops.monitoring.row_values import (
    Texts,
    choose_answers,
    explain_inputs,
    name_score,
    read_answers,
    read_inputs,
)

NO_TEXTS = Texts({})


def find_changed(usual: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> set[str]:
    held = make_reference(read_inputs(usual, NO_TEXTS), {})
    rows = len(next(iter(now.values())))
    counts = held.count(read_inputs(now, NO_TEXTS))
    found = compare(held, counts, rows, maxima=simulate_maxima(held, rows, windows=200))
    return {one.column.name for one in found.findings}


def test_an_embedding_of_another_encoder_differs_though_its_mean_and_spread_do_not() -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(size=(6, 64))
    rows = random.normal(size=(4000, 6)) ** 3 @ mixing
    mirrored = random.normal(size=(1000, 6)) ** 3 @ mixing[:, random.permutation(64)]
    assert not find_changed({"vector": rows[:3000]}, {"vector": rows[3000:]})
    assert find_changed({"vector": rows[:3000]}, {"vector": mirrored})
    alone = [read_inputs({"vector": rows[place : place + 1]}, NO_TEXTS) for place in range(5)]
    together = read_inputs({"vector": rows[:5]}, NO_TEXTS)
    for name, values in together.items():
        assert values.tolist() == [float(one[name][0]) for one in alone]


@pytest.mark.parametrize("size", [24, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_slight_blur_an_inversion_and_a_crop_of_images_differ(size: int, channels: int) -> None:
    random = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        """Discs on noise that is smooth, somewhere in the middle."""
        place = np.mgrid[:size, :size][None]
        centres = random.uniform(0.35, 0.65, (count, 2, 1, 1)) * size
        radii = random.uniform(0.15, 0.3, (count, 1, 1)) * size
        disc = (((place - centres) ** 2).sum(axis=1) < radii**2) * random.uniform(60, 140, (count, 1, 1))
        noise = random.normal(60, 12, (count, size, size))
        grey = np.clip(disc + noise, 0, 255)
        tint = random.uniform(0.8, 1.0, (count, 1, 1, channels))
        return (grey[..., None] * tint).astype(np.uint8)

    def smooth(images: np.ndarray) -> np.ndarray:
        padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        blurred = sum(padded[:, a : a + size, b : b + size] for a in range(3) for b in range(3)) / 9
        return (0.6 * images + 0.4 * blurred).astype(np.uint8)

    usual, now = draw(600), draw(200)
    edge = size // 8
    cropped = now[:, edge : size - edge, edge : size - edge]
    places = np.arange(size) * cropped.shape[1] // size
    cropped = cropped[:, places][:, :, places]
    assert not find_changed({"image": usual}, {"image": now})
    assert "image: sharpness" in find_changed({"image": usual}, {"image": smooth(now)})
    assert "image: brightness" in find_changed({"image": usual}, {"image": 255 - now})
    assert find_changed({"image": usual}, {"image": cropped})


def test_of_answers_what_says_most_is_watched_and_others_tell_why_not() -> None:
    random = np.random.default_rng(0)
    two = random.dirichlet([1, 1], 50)
    answer = {
        "probabilities": two,
        "classes": random.dirichlet([1, 1, 1], 50),
        "box": random.normal(size=(50, 4)) * 100,
        "label": np.array(["a", "b"] * 25, object),
        "contributions": random.normal(size=(50, 7)),
        "names": np.array([["a", "b"]] * 50, object),
        "version": np.array([3.0]),
    }
    found, left_out = choose_answers(answer, 50)
    assert set(found) == {
        "probabilities[1]",
        "classes: largest",
        "classes: place of the largest",
        *(f"box[{place}]" for place in range(4)),
        "label",
    }
    assert set(left_out) == {"contributions", "names", "version"}
    assert "no value for each row" in left_out["version"]
    assert found["probabilities[1]"].tolist() == two[:, 1].tolist()
    assert name_score("probabilities", two) == "probabilities[1]"
    logits, _ = choose_answers({"logits": random.normal(size=(50, 3))}, 50, ("logits",))
    assert set(logits) == {"logits: largest", "logits: place of the largest"}
    assert set(found) <= set(read_answers(answer, 50))  # what serving counts has all of them


def test_lists_of_different_lengths_are_watched_by_what_they_hold() -> None:
    values = np.array([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    batch = {"amounts": values, "amounts_lengths": np.array([2, 1, 0])}
    found = read_inputs(batch, NO_TEXTS)
    assert found["amounts: mean"].tolist()[:2] == [2.0, 5.0]
    assert np.isnan(found["amounts: mean"][2])
    assert found["amounts_lengths"].tolist() == [2, 1, 0]
    padded = read_inputs({**batch, "amounts": np.pad(values, ((0, 0), (0, 9)))}, NO_TEXTS)
    assert padded["amounts: mean"].tolist()[:2] == [2.0, 5.0]
    texts = {"words": np.array([["a", "b"]] * 3, object)}
    assert "lists of texts" in explain_inputs(texts, 3, NO_TEXTS)["words"]
