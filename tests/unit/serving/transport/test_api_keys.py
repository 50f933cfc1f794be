"""Keys are kept as hashes, replaced at once, and refused in the right way."""

import concurrent.futures
import pathlib
import re
import stat
import subprocess
import sys
import time

import pytest
import yaml
from click.testing import CliRunner

from raymlops.cli.keys import keys as command
from raymlops.errors import AuthenticationError, ForbiddenError, SpecError
from raymlops.serving.transport import key_files
from raymlops.serving.transport.api_keys import ROLES, Key, KeyRing, make_key, read_keys
from raymlops.serving.transport.key_files import write_keys


def test_a_key_file_holds_no_key_and_is_the_owners_only(tmp_path: pathlib.Path) -> None:
    token, key = make_key("app", ["infer", "view"], ["churn"], "2031-01-01T00:00:00Z")
    path = tmp_path / "keys.yaml"
    write_keys(path, [key])
    assert read_keys(path) == [key]
    assert token.rsplit("_", 1)[1] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_replaced_keys_take_effect_at_once() -> None:
    old, old_key = make_key("app", ["infer"])
    new, new_key = make_key("app", ["infer"])
    ring = KeyRing([old_key])
    assert ring.admit(old, "infer").name == "app"
    ring.replace([new_key])
    assert ring.admit(new, "infer").name == "app"
    with pytest.raises(AuthenticationError):
        ring.admit(old, "infer")


def test_an_emptied_file_locks_everyone_out_rather_than_letting_everyone_in() -> None:
    token, key = make_key("app", ["admin"])
    ring = KeyRing([key], required=True)
    ring.replace([])
    with pytest.raises(AuthenticationError):
        ring.admit(token, "infer")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_allows_what_it_names_and_nothing_else(role: str) -> None:
    token, key = make_key("app", [role])
    ring = KeyRing([key])
    allowed = {"admin": {*ROLES, "ready"}, "infer": {"infer", "ready"}, "view": {"view", "ready"}}
    for asked in (*ROLES, "ready"):
        if asked in allowed.get(role, {role}):
            assert ring.admit(token, asked).name == "app"
        else:
            with pytest.raises(ForbiddenError):
                ring.admit(token, asked)
    with pytest.raises(ForbiddenError):
        KeyRing().admit("", "admin")


def test_a_key_is_for_its_models_only() -> None:
    token, key = make_key("app", ["infer", "admin"], ["churn", "fraud"])
    ring = KeyRing([key])
    assert ring.admit(token, "infer", "churn").sees("fraud")
    assert ring.admit(token, "view").models == ("churn", "fraud")
    for model in ("other", "", "Churn", "churn/versions/1"):
        with pytest.raises(ForbiddenError):
            ring.admit(token, "infer", model)


@pytest.mark.parametrize("offset", ["", "Z", "+02:00"])
def test_a_key_ends_at_its_instant(offset: str) -> None:
    for year, good in ((1970, False), (2001, False), (2101, True)):
        token, key = make_key("app", ["infer"], expires=f"{year}-01-01T00:00:00{offset}")
        ring = KeyRing([key])
        if good:
            assert ring.admit(token, "infer")
        else:
            with pytest.raises(AuthenticationError, match="expired"):
                ring.admit(token, "infer")
    for wrong in ("soon", "2031-13-01", "1e9"):
        with pytest.raises(SpecError):
            make_key("app", ["infer"], expires=wrong)


def test_a_file_of_before_stays_readable_and_means_what_it_meant(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "keys.yaml"
    entries = [
        {"name": name, "role": role, "sha256": "0" * 64} for name, role in (("a", "infer"), ("b", "admin"))
    ]
    path.write_text(yaml.safe_dump({"keys": entries}))
    assert [key.roles for key in read_keys(path)] == [("infer", "view"), ("admin",)]


def test_two_keys_of_a_name_overlap_while_one_is_rotated(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "keys.yaml"
    old = key_files.add_key(path, "app", ["infer"], ["churn"])
    other = key_files.add_key(path, "ops", ["admin"])
    new = key_files.rotate_key(path, "app", 3600)
    ring = KeyRing(read_keys(path))
    assert ring.admit(old, "infer", "churn").models == ring.admit(new, "infer", "churn").models == ("churn",)
    assert ring.admit(other, "admin")
    last = key_files.rotate_key(path, "app", 0)
    ring = KeyRing(read_keys(path))
    for ended in (old, new):
        with pytest.raises(AuthenticationError):
            ring.admit(ended, "infer", "churn")
    assert ring.admit(last, "infer", "churn")


def test_a_key_is_revoked_by_its_id_or_all_by_their_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "keys.yaml"
    key_files.add_key(path, "app", ["infer"])
    new = key_files.rotate_key(path, "app", 3600)
    old = read_keys(path)[0]
    assert key_files.revoke_key(path, old.id) == [old]
    assert KeyRing(read_keys(path)).admit(new, "infer")
    assert len(key_files.revoke_key(path, "app")) == 1
    assert read_keys(path) == []


def test_changes_at_one_time_lose_nothing_and_bring_no_revoked_key_back(tmp_path: pathlib.Path) -> None:
    """Each of these processes reads, changes and writes; without a lock the last one would undo the others."""
    path = tmp_path / "keys.yaml"
    for i in range(6):
        key_files.add_key(path, f"old{i}", ["infer"])
    code = (
        "import pathlib, sys; from raymlops.serving.transport import key_files\n"
        "path, turn = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "for i in range(5): key_files.add_key(path, f'new{turn}-{i}', ['infer'])\n"
        "key_files.revoke_key(path, f'old{turn}')\n"
    )

    def run(turn: int) -> None:
        subprocess.run([sys.executable, "-c", code, str(path), str(turn)], check=True, timeout=120)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    assert {key.name for key in read_keys(path)} == {f"new{turn}-{i}" for turn in range(6) for i in range(5)}


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "keys.yaml"
    key_files.add_key(path, "app", ["infer"])
    before = path.read_bytes()

    class Broken:
        def __iter__(self) -> "Broken":
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_keys(path, Broken())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".keys.yaml.lock", "keys.yaml"]


def test_the_commands_make_list_rotate_and_revoke(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "keys.yaml")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output.strip()

    first = run("add", path, "app", "--role", "infer", "--role", "metrics", "--model", "churn")
    second = run("rotate", path, "app", "--overlap", "0.5")
    assert all(re.fullmatch(r"rmk_app_[\w-]{43}", token) for token in (first, second))
    old, new = (line.split("\t") for line in run("list", path).splitlines())
    assert old[:2] == new[:2] == ["app", "infer,metrics"]
    assert (old[3], old[4] > time.strftime("%Y"), new[4]) == ("churn", True, "no end")
    assert run("revoke", path, old[2]) == f"Revoked app {old[2]}"
    assert [key.id for key in read_keys(tmp_path / "keys.yaml")] == [new[2]]


@pytest.mark.parametrize(
    "text",
    [
        "keys: 3", "keys: [{name: a}]", "keys: [{name: a, role: b, sha256: c}]", "{", "[]", "3",
        f"keys: [{{name: a, roles: infer, sha256: {'a' * 64}}}]",
        f"keys: [{{name: a, roles: [infer], sha256: {'a' * 64}, models: churn}}]",
        f"keys: [{{name: a, roles: [], sha256: {'a' * 64}}}]",
        f"keys: [{{name: a, roles: [infer], sha256: {'a' * 64}, expires: soon}}]",
        "keys: [{name: a, roles: [infer], sha256: 12}]",
    ],
)  # fmt: skip
def test_a_broken_key_file_is_an_error(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(SpecError):
        read_keys(path)


def test_an_instant_that_yaml_reads_as_one_is_taken(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: [{{name: a, roles: [infer], sha256: {'a' * 64}, expires: 2031-01-31}}]")
    assert read_keys(path) == [Key("a", ("infer",), "a" * 64, (), "2031-01-31")]


def test_names_that_would_not_parse_are_refused() -> None:
    for name in ("", "a_b", "a b", "x" * 65):
        with pytest.raises(SpecError):
            make_key(name, ["infer"])
