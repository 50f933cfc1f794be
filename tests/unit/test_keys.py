"""Keys are kept as hashes, replaced at once, and refused in the right way."""

import pathlib
import stat

import pytest

from raymlops.errors import AuthenticationError, ForbiddenError, SpecError
from raymlops.serving.keys import KeyRing, make_key, read_keys, write_keys


def test_a_key_file_holds_no_key_and_is_the_owners_only(tmp_path: pathlib.Path) -> None:
    token, key = make_key("app", "infer")
    path = tmp_path / "keys.yaml"
    write_keys(path, [key])
    assert read_keys(path) == [key]
    assert token.rsplit("_", 1)[1] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_replaced_keys_take_effect_at_once() -> None:
    old, old_key = make_key("app", "infer")
    new, new_key = make_key("app", "infer")
    ring = KeyRing([old_key])
    assert ring.admit(old, "infer") == "app"
    ring.replace([new_key])
    assert ring.admit(new, "infer") == "app"
    with pytest.raises(AuthenticationError):
        ring.admit(old, "infer")


def test_an_emptied_file_locks_everyone_out_rather_than_letting_everyone_in() -> None:
    token, key = make_key("app", "admin")
    ring = KeyRing([key], required=True)
    ring.replace([])
    with pytest.raises(AuthenticationError):
        ring.admit(token, "infer")


def test_roles_hold() -> None:
    user, user_key = make_key("app", "infer")
    admin, admin_key = make_key("ops", "admin")
    ring = KeyRing([user_key, admin_key])
    assert ring.admit(admin, "infer") == ring.admit(admin, "admin") == "ops"
    with pytest.raises(ForbiddenError):
        ring.admit(user, "admin")
    with pytest.raises(ForbiddenError):
        KeyRing().admit("", "admin")


@pytest.mark.parametrize(
    "text", ["keys: 3", "keys: [{name: a}]", "keys: [{name: a, role: b, sha256: c}]", "{", "[]"]
)
def test_a_broken_key_file_is_an_error(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(SpecError):
        read_keys(path)


def test_names_that_would_not_parse_are_refused() -> None:
    for name in ("", "a_b", "a b", "x" * 65):
        with pytest.raises(SpecError):
            make_key(name, "infer")
