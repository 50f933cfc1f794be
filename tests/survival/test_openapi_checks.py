"""As tests/unit/serving/protocol/test_openapi.py, for models of all kinds and many more requests."""

import pathlib

import pytest

from tests.openapi_checks import ALL, check_document


@pytest.mark.timeout(1800)
def test_every_check_of_generated_requests_holds_for_models_of_all_kinds(tmp_path: pathlib.Path) -> None:
    check_document(tmp_path, ALL, examples=40)
