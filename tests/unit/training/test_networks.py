from typing import Any

import pytest
import torch

from raymlops.errors import SpecError
from raymlops.training import networks

TABULAR: dict[str, Any] = {"numeric": 3, "categories": (4, 100), "image": (), "outputs": 2}
IMAGES: dict[str, Any] = {"numeric": 0, "categories": (), "image": (3, 8, 8), "outputs": 5}


def test_a_tabular_network_takes_numbers_and_categories() -> None:
    network = networks.build_network("mlp", {"hidden": 16, "layers": 3, "normalise": True}, **TABULAR)
    given = network(numeric=torch.zeros(7, 3), category=torch.zeros(7, 2, dtype=torch.int64))
    assert given.shape == (7, 2)


@pytest.mark.parametrize(("numeric", "categories"), [(3, ()), (0, (4,))])
def test_a_tabular_network_takes_either_alone(numeric: int, categories: tuple[int, ...]) -> None:
    network = networks.build_network(
        "mlp", {}, numeric=numeric, categories=categories, image=(), outputs=1
    ).eval()
    inputs = {"numeric": torch.zeros(2, 3)} if numeric else {"category": torch.zeros(2, 1, dtype=torch.int64)}
    assert network(**inputs).shape == (2, 1)


@pytest.mark.parametrize("size", [1, 4, 8, 9])
def test_a_network_of_images_takes_every_size(size: int) -> None:
    network = networks.build_network("cnn", {"stages": 3}, **{**IMAGES, "image": (1, size, size)})
    assert network(image=torch.zeros(2, 1, size, size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "packing", "message"),
    [
        ("mpl", TABULAR, "Unknown network 'mpl'; did you mean 'mlp'"),
        ("mlp", IMAGES, r"use network\.name: cnn"),
        ("cnn", TABULAR, "needs images"),
        ("tests.own_networks:Missing", TABULAR, "cannot import"),
        ("no.such.module:Network", TABULAR, "cannot import"),
        ("tests.own_networks:NoModule", TABULAR, r"not a subclass of torch\.nn\.Module"),
        ("tests.own_networks:exploding", TABULAR, r"not a subclass of torch\.nn\.Module"),
    ],
)
def test_a_network_that_cannot_be_is_refused(name: str, packing: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        networks.build_network(name, {}, **packing)


def test_an_own_network_is_built_with_its_options() -> None:
    network = networks.build_network("tests.own_networks:Linear", {"bias": False}, **TABULAR)
    assert type(network).__name__ == "Linear"
    assert "numbers.bias" not in network.state_dict()


def test_a_wrong_option_gets_the_nearest_known_one() -> None:
    with pytest.raises(SpecError, match="Unknown option of 'mlp': 'hiden'; did you mean 'hidden'"):
        networks.check_options("mlp", {"hiden": 3})
    networks.check_options("tests.own_networks:Branching", {"anything": 1})
