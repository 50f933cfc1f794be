"""What the record of a version says of its models."""

import json
import pathlib
from typing import Any

import pytest

from raymlops.lifecycle.govern import version_record
from raymlops.tracking.registry import ModelVersion


def version_with(members: Any) -> ModelVersion:
    tags = {} if members is None else {"raymlops.members": json.dumps(members)}
    return ModelVersion("toy", "1", "models:/toy/1", "", pathlib.Path(), tags)


@pytest.mark.parametrize(
    ("members", "seen"),
    [
        (None, False),  # registered from a file
        ({"members": [{"models": 1}, {"models": 1}]}, False),  # of before there were refits
        ({"members": [{"models": 1, "whole": False}]}, False),
        ({"members": [{"models": 1, "whole": False}, {"models": 1, "whole": True}]}, True),
        ({"members": [{"models": 10, "whole": False}]}, True),
        (
            {"members": [{"models": 1}], "teacher": [{"models": 5}]},
            False,
        ),  # which learned from training rows alone
    ],
)
def test_which_versions_have_models_of_the_validation_rows(members: Any, seen: bool) -> None:
    assert version_record.trained_on_validation(version_with(members)) is seen
