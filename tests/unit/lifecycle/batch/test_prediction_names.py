"""Predictions stand beside the columns of a table, and replace none."""

import pytest

from raymlops.errors import DataError
from raymlops.lifecycle.batch.predict import name_predictions

OUTPUTS = ("label", "probability")


def test_predictions_keep_their_names_beside_other_columns() -> None:
    assert name_predictions(["x", "y"], OUTPUTS) == {"label": "label", "probability": "probability"}
    assert name_predictions([], OUTPUTS) == {"label": "label", "probability": "probability"}


def test_a_column_of_the_table_is_not_replaced() -> None:
    assert name_predictions(["x", "label"], OUTPUTS) == {
        "label": "predicted_label",
        "probability": "probability",
    }
    with pytest.raises(DataError, match=r"'predicted_label' .* would replace it"):
        name_predictions(["label", "predicted_label"], OUTPUTS)
    with pytest.raises(DataError, match=r"'predicted_label' .* would replace it"):
        name_predictions(["label"], (*OUTPUTS, "predicted_label"))
