"""What all tests share: one tracking store a session, and property tests that repeat exactly."""

import pathlib

import hypothesis
import pytest

from raymlops.settings import Settings

# The same examples every time: a test that fails here fails everywhere, and time decides nothing.
hypothesis.settings.register_profile("raymlops", max_examples=60, deadline=None, derandomize=True)
hypothesis.settings.load_profile("raymlops")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a home of this session; its database is made once, which costs seconds."""
    return settings_in(tmp_path_factory.mktemp("home"))


def settings_in(home: pathlib.Path, **variables: str) -> Settings:
    """Settings as a user's environment would give them, with everything under `home`."""
    return Settings.from_env({"RAYMLOPS_HOME": str(home), "USER": "tester", **variables})
