"""What all tests share: one tracking store a session, and property tests that repeat exactly."""

import os
import pathlib
from collections.abc import Iterator

import hypothesis
import pytest

from raymlops.settings import Settings

# The same examples every time: a test that fails here fails everywhere, and time decides nothing.
hypothesis.settings.register_profile("raymlops", max_examples=60, deadline=None, derandomize=True)
hypothesis.settings.load_profile("raymlops")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Commands that are called in this process set variables for the processes they start; the next test has none."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a home of this session; its database is made once, which costs seconds."""
    return settings_in(tmp_path_factory.mktemp("home"))


def settings_in(home: pathlib.Path, **variables: str) -> Settings:
    """Settings as a user's environment would give them, with everything under `home`."""
    return Settings.from_env({"RAYMLOPS_HOME": str(home), "USER": "tester", **variables})
