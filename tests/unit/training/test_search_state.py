"""What Tune pickled of a search is unpickled only where a trusted key signed it."""

import json
import pathlib
import shutil

import pytest
from ray.tune.execution import tune_controller

from raymlops import attestation
from raymlops.errors import UntrustedError
from raymlops.settings import Settings
from raymlops.training import search_state
from raymlops.training.search_state import SIGNATURE_FILE, SearchState, open_state, signed_by
from tests.conftest import settings_in


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def folder(settings: Settings) -> pathlib.Path:
    folder = pathlib.Path(settings.storage_path) / "s"
    folder.mkdir(parents=True)
    (folder / "tuner.pkl").write_bytes(b"tuner")
    return folder


def state_of(settings: Settings, name: str = "s") -> SearchState:
    key = attestation.load_signing_key(settings)
    return open_state(settings.storage_path, name, key, attestation.load_trusted_keys(settings))


def write(folder: pathlib.Path, number: int) -> None:
    (folder / "experiment_state-1.json").write_text(json.dumps(number))
    (folder / "searcher-state-1.pkl").write_bytes(bytes([number]))


def test_what_a_driver_wrote_is_taken_whenever_it_was_killed(
    settings: Settings, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    state, staging = state_of(settings), tmp_path / "staging"
    state.adopt()
    state_of(settings).require_signed()
    staging.mkdir()
    for number in range(1, 20):  # killed before, between and after the files are copied
        write(staging, number)
        state.sign(str(staging))
        state_of(settings).require_signed()
        for file in staging.iterdir():
            shutil.copy(file, folder)
            state_of(settings).require_signed()
    again = state_of(settings)
    again.require_signed()
    (staging / "experiment_state-2.json").write_text("{}")
    again.sign(str(staging))  # what went on keeps the signatures of what it began from
    state_of(settings).require_signed()


@pytest.mark.parametrize(
    "forge", ["tuner.pkl", "experiment_state-1.json", "experiment_state-9.json", "x.pkl"]
)
def test_a_file_that_was_changed_or_put_there_is_refused(
    settings: Settings, folder: pathlib.Path, forge: str
) -> None:
    write(folder, 1)
    state_of(settings).adopt()
    (folder / forge).write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(
        UntrustedError, match=f"'{forge}' of the search 's' is not what a trusted key signed.*--trust"
    ):
        state_of(settings).require_signed()


def test_signatures_of_nobody_of_others_and_of_other_searches_are_none(
    settings: Settings, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UntrustedError, match="Nobody signed the state"):
        state_of(settings).require_signed()
    stranger = settings_in(tmp_path / "other", RAYMLOPS_STORAGE=settings.storage_path)
    state_of(stranger).adopt()
    with pytest.raises(UntrustedError, match="no trusted key"):
        state_of(settings).require_signed()
    line = attestation.load_signing_key(stranger).line
    trusting = settings_in(tmp_path, RAYMLOPS_TRUSTED_KEYS=line)
    state_of(trusting).require_signed()
    shutil.copytree(folder, folder.parent / "t")
    with pytest.raises(UntrustedError, match="signed for the search 's'"):
        state_of(trusting, "t").require_signed()
    for text in (b"", b"{}", b"[" * 5000):
        (folder / SIGNATURE_FILE).write_bytes(text)
        with pytest.raises(UntrustedError):
            state_of(settings).require_signed()


def test_tune_still_has_the_method_that_is_wrapped_and_has_it_back_afterwards(settings: Settings) -> None:
    before = tune_controller.TuneController.save_to_dir
    with signed_by(None):
        assert tune_controller.TuneController.save_to_dir is before
    with signed_by(state_of(settings)):
        assert tune_controller.TuneController.save_to_dir is not before
    assert tune_controller.TuneController.save_to_dir is before
    assert search_state.SIGNATURE_FILE.endswith(".signed")
