"""Paths and URIs: joined, opened, and told in few words when they fail. No server is asked."""

import pathlib

import pytest

from raymlops import locations
from raymlops.errors import StorageError
from raymlops.tracking import store
from raymlops.training.storage import in_time, require_writable


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/mnt/storage/", "/mnt/storage/a/b"),
        ("/mnt/why?", "/mnt/why?/a/b"),
        ("s3://bucket", "s3://bucket/a/b"),
        ("s3://bucket/x/?region=eu-west-1", "s3://bucket/x/a/b?region=eu-west-1"),
    ],
)
def test_what_is_below_a_location_keeps_its_query(location: str, expected: str) -> None:
    assert locations.join(location, "a", "b") == expected


def test_a_bucket_is_opened_without_further_packages() -> None:
    uri = "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1"
    files, folder = locations.open_location(uri, "a")
    assert (files.protocol, folder) == ("s3", "bucket/x/a")
    assert locations.open_location("/mnt/storage", "a")[1] == "/mnt/storage/a"
    with pytest.raises(StorageError, match="'nope://x' cannot be opened: Protocol not known"):
        locations.open_location("nope://x")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation"), "no such bucket"),
        (OSError("Bucket 'x' not found. To create buckets, enable the option"), "no such bucket"),
        (OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"), "does not answer"),
        (ValueError('Could not connect to the endpoint URL: "http://127.0.0.1:1/x"'), "does not answer"),
        (
            OSError("AWS Error ACCESS_DENIED during HeadBucket operation: No response body."),
            "access is denied",
        ),
        (ValueError("Unable to locate credentials"), "access is denied"),
        (ValueError("The AWS Access Key Id you provided does not exist in our records."), "access is denied"),
        (OSError(28, "whatever"), "No space left on device"),
        (OSError("something\n else"), "something else"),
    ],
)
def test_the_page_that_a_server_sends_becomes_a_cause(error: Exception, cause: str) -> None:
    assert cause in locations.explain(error)


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("az://container/x", "keeps no checkpoints at the storage path 'az://container/x'"),
        ("s3://AKIA:secret@bucket/x", "holds a secret key"),
    ],
)
def test_a_storage_that_ray_cannot_use_or_that_shows_a_secret_is_refused(storage: str, told: str) -> None:
    with pytest.raises(StorageError, match=told) as raised:
        require_writable(storage)
    assert "secret@" not in str(raised.value)


def test_a_call_that_takes_too_long_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    import threading

    freed = threading.Event()
    with pytest.raises(TimeoutError):
        in_time(lambda: bool(freed.wait(30)) and None, seconds=0.1)
    freed.set()
    with pytest.raises(FileNotFoundError):
        in_time((tmp_path / "none").unlink)


def test_artifacts_in_a_bucket_name_the_package_that_is_missing() -> None:
    with (
        pytest.raises(StorageError, match=r"need the package 'boto3'; run: pip install 'raymlops\[s3\]'"),
        store.reaching_artifacts("s3://bucket/mlflow"),
    ):
        raise ModuleNotFoundError("No module named 'boto3'", name="boto3")
