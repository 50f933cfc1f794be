"""What we use of Ray and uvicorn that they do not promise to keep is there, and as it was; a new version that changed
it fails here by name, with what becomes of the product."""

import logging
import types

import pytest

from raymlops.private_names import PrivateName, PrivateNames
from raymlops.ray_internals import RAY
from raymlops.serving.fastpath import uvicorn_internals
from raymlops.serving.fastpath.uvicorn_internals import UVICORN
from raymlops.serving.serve_internals import SERVE

ADAPTERS = (RAY, SERVE, UVICORN)
NAMES = [pytest.param(adapter, path, id=path) for adapter in ADAPTERS for path in adapter.names]


@pytest.mark.parametrize(("adapter", "path"), NAMES)
def test_a_private_name_is_as_it_was(adapter: PrivateNames, path: str) -> None:
    broken = adapter.explain(path)
    assert not broken, broken


def test_the_fast_path_is_taken_with_the_installed_uvicorn() -> None:
    assert UVICORN.are_known()


class Thing:
    declared: int

    def __init__(self) -> None:
        self.made = 1

    def act(self, first: int, second: int) -> int:
        return first + second


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("other_package")
    module.Thing, module.size = Thing, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "other_package", module)
    return module


@pytest.mark.parametrize(
    ("path", "what", "told"),
    [
        ("Thing", PrivateName("x", sets=("declared", "made", "act")), ""),
        ("Thing", PrivateName("all is slow", sets=("made", "gone")), "has no attribute gone; all is slow"),
        ("Thing.act", PrivateName("x", takes=("self", "first")), ""),
        ("Thing.act", PrivateName("x", takes=("second",)), ""),
        (
            "Thing.act",
            PrivateName("all is slow", takes=("third",)),
            "first, second, not third; all is slow",
        ),
        ("Thing.go", PrivateName("all is slow"), "it has no other_package:Thing.go; all is slow"),
        ("size", PrivateName("all is slow", kind=str), "other_package:size is int, not str; all is slow"),
    ],
)
def test_what_changed_is_named_with_what_becomes_of_us(
    other: types.ModuleType, path: str, what: PrivateName, told: str
) -> None:
    adapter = PrivateNames("numpy", ">=0", {f"other_package:{path}": what})
    explained = adapter.explain(f"other_package:{path}")
    assert explained.endswith(told)
    assert bool(explained) == bool(told)
    assert adapter.are_known() == (not told)


def test_what_is_missing_is_logged_once_and_another_version_at_import(
    other: types.ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "raymlops"):
        adapter = PrivateNames("numpy", "<1", {"other_package:gone": PrivateName("all is slow")})
        assert adapter.find("other_package:gone") is None
        assert adapter.find("other_package:gone") is None
        assert not adapter.replace("other_package:gone", lambda original: original)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "is not a tested version (<1)" in told[0]
    assert "is not a known version: it has no other_package:gone; all is slow" in told[1]
    with pytest.raises(NotImplementedError, match="all is slow"):
        adapter.call("other_package:gone")


def test_a_function_is_replaced_once(other: types.ModuleType) -> None:
    adapter = PrivateNames("numpy", ">=0", {"other_package:double": PrivateName("x")})
    other.double = lambda number: 2 * number  # type: ignore[attr-defined]
    for _ in range(2):
        assert adapter.replace("other_package:double", lambda original: lambda number: original(number) + 1)
    assert other.double(3) == 7


def test_a_uvicorn_that_changed_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn.config
    from uvicorn.protocols.http import httptools_impl

    before = uvicorn.config.HTTP_PROTOCOLS["auto"]
    monkeypatch.delattr(httptools_impl, "STATUS_LINE")
    assert not uvicorn_internals.use_protocol("nowhere:Nothing")
    assert uvicorn.config.HTTP_PROTOCOLS["auto"] == before
