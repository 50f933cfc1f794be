"""The MLP with a linear path: what it is, how it starts, and its ONNX file."""

from typing import Any

import numpy as np
import pytest
import torch

from raymlops.features import FittedTarget, Packing
from raymlops.models.session import open_session
from raymlops.specs.training import TrainingSpec
from raymlops.training import mlp_export
from raymlops.training.heads import make_head
from raymlops.training.linear_start import fit_linear_path
from raymlops.training.networks import build_network

DRAW = np.random.default_rng(0)
SHAPES = [(3, (4, 7)), (3, ()), (0, (5,)), (1, (2,))]


def rows_of(numeric: int, categories: tuple[int, ...], rows: int = 400) -> dict[str, torch.Tensor]:
    found = {}
    if numeric:
        found["numeric"] = torch.from_numpy(DRAW.normal(size=(rows, numeric)).astype(np.float32))
    if categories:
        found["category"] = torch.from_numpy(
            np.stack([DRAW.integers(0, size, rows) for size in categories], axis=1)
        )
    return found


def network_of(numeric: int, categories: tuple[int, ...], outputs: int, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_network(
        "mlp", {"linear": True, **options}, numeric=numeric, categories=categories, image=(), outputs=outputs
    )


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(("numeric", "categories"), SHAPES)
def test_the_file_answers_as_the_network_for_any_number_of_rows(
    numeric: int, categories: tuple[int, ...], outputs: int
) -> None:
    network = network_of(numeric, categories, outputs)
    with torch.no_grad():
        for part in network.parameters():
            part.normal_()
    assert mlp_export.can_write(network)
    session = open_session(
        mlp_export.write_network(network, Packing(numeric, categories)).SerializeToString()
    )
    for rows in (1, 5, 400):
        given = rows_of(numeric, categories, rows)
        expected = network.eval()(**given).detach().numpy()
        found = session.infer({name: values.numpy() for name, values in given.items()})["outputs"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_other_networks_keep_the_exporter_whose_bytes_were_recorded() -> None:
    assert not mlp_export.can_write(network_of(3, (), 1, linear=False))
    assert not mlp_export.can_write(network_of(3, (), 1, normalise=True))


@pytest.mark.parametrize(("numeric", "categories"), SHAPES)
def test_training_starts_from_the_ridge_regression_of_scikit_learn(
    numeric: int, categories: tuple[int, ...]
) -> None:
    from sklearn.linear_model import Ridge

    rows = rows_of(numeric, categories)
    one_hot = [np.eye(size)[rows["category"][:, place]] for place, size in enumerate(categories)]
    matrix = np.concatenate([*([rows["numeric"].numpy()] if numeric else []), *one_hot], axis=1)
    label = (matrix @ DRAW.normal(size=matrix.shape[1]) + DRAW.normal(size=len(matrix))).astype(np.float32)
    network = network_of(numeric, categories, 1)
    target = FittedTarget("y", "regression", "number")
    fit_linear_path(
        network.linear, {**rows, "label": torch.from_numpy(label)}, make_head(TrainingSpec(), target)
    )
    found = network.eval()(**rows).detach().numpy()[:, 0]  # its layers add nothing yet
    # the loss is not halved, so that a unit of penalty on it is half a unit of Ridge's
    expected = Ridge(alpha=0.5).fit(matrix, label).predict(matrix)
    np.testing.assert_allclose(found, expected, atol=2e-2)
