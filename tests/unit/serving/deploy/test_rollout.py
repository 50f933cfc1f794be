"""What was put on a cluster by another way than `deploy` can be gone back to, too."""

import pathlib
from typing import Any

import pytest

from raymlops.errors import NotFoundError
from raymlops.serving.deploy.history import BUILDER, History
from raymlops.serving.deploy.rollout import describe, remember_running
from tests.conftest import settings_in


def config(version: int, **more: Any) -> dict[str, Any]:
    return {"name": "a", "route_prefix": "/", "import_path": BUILDER, "args": {"v": version}, **more}


def test_what_serve_put_there_is_gone_back_to(tmp_path: pathlib.Path) -> None:
    past = History(settings_in(tmp_path), "a")
    remember_running(past, config(1))
    past.add(config(2))
    assert past.previous() == config(1)


def test_what_is_known_is_remembered_once_whatever_serve_adds_to_it(tmp_path: pathlib.Path) -> None:
    past = History(settings_in(tmp_path), "a")
    past.add(config(1))
    remember_running(past, config(1, deployments=[], external_scaler_enabled=False))
    assert past.read() == [config(1)]
    remember_running(past, config(1, deployments=[{"name": "Ingress", "user_config": {"weights": {}}}]))
    assert len(past.read()) == 2  # shares that were set while it served


def test_an_application_of_somebody_else_is_no_part_of_it(tmp_path: pathlib.Path) -> None:
    past = History(settings_in(tmp_path), "a")
    remember_running(past, config(1, import_path="theirs:app"))
    with pytest.raises(NotFoundError):
        past.previous()
    assert past.read() == []


def test_all_that_is_served_is_told() -> None:
    args = {
        "models": {"m": {"source": "models:/m/3", "version": "3"}},
        "graphs": {"g": {}},
        "many": {"folder": "/models"},
    }
    assert list(describe({"args": args})) == [
        "m: models:/m/3, version 3,",
        "g, a graph,",
        "The folder /models",
    ]
