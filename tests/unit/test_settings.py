"""Settings of the environment."""

import getpass
import pathlib

import pytest

from raymlops import settings
from raymlops.settings import Settings


def test_who_is_taken_from_git_or_the_login_where_no_variable_says_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.from_env({"USER": "ann", "RAYMLOPS_USER": "bob"}).user == "bob"
    assert Settings.from_env({"USER": "ann"}).user == "ann"
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\temail = ann@example.com\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    settings.find_user.cache_clear()
    assert Settings.from_env({}).user == "ann@example.com"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("LOGNAME", "carl")
    settings.find_user.cache_clear()
    assert Settings.from_env({}).user == getpass.getuser() == "carl"
    settings.find_user.cache_clear()
