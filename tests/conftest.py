"""What all tests share: one tracking store a session, and property tests that repeat exactly."""

import os
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from raymlops.settings import Settings

# Before numpy is imported: its threads wait by spinning, which costs small matrices four times their time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The same examples every time: a test that fails here fails everywhere, and time decides nothing.
hypothesis.settings.register_profile("raymlops", max_examples=60, deadline=None, derandomize=True)
hypothesis.settings.load_profile("raymlops")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="run files, and tests within them, in random order"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("--shuffle")) is not None:
        draw = random.Random(seed)
        places = {path: draw.random() for path in dict.fromkeys(item.path for item in items)}
        within = {item: draw.random() for item in items}
        items.sort(key=lambda item: (places[item.path], within[item]))
    if hasattr(config, "workerinput"):  # one of several processes: the folders that take longest begin first
        items.sort(key=lambda item: _LONGEST.get(item.path.relative_to(TESTS).parts[0], len(_LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes, one runs all tests of tests/ray, which share a cluster, and each other file is run by one.
    The groups of xdist's own schedulers are not used: xdist 3.8 does not see them in pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "tests/ray" if path.startswith("tests/ray/") else path

    config.option.loadscopereorder = False
    return ByFile(config, log)


TESTS = pathlib.Path(__file__).parent
_LONGEST = {"ray": 0, "e2e": 1}


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
