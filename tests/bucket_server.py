"""A server of buckets on loopback, in a process of its own, and the variables with which a stock client finds it."""

import pathlib
import signal
import subprocess
import sys

import boto3
import httpx

from tests.killing import wait_until
from tests.serving_process import free_port

BUCKET = "team"


class BucketServer:
    """What it holds goes with it."""

    def __init__(self, folder: pathlib.Path) -> None:
        log, port = folder / "buckets.log", free_port()
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=out,
                stderr=out,
            )
        wait_until(self._answers, log.read_text, 60)
        client = boto3.client(
            "s3", endpoint_url=self.variables["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="tester", aws_secret_access_key="secret",
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.variables['AWS_ENDPOINT_URL']}/moto-api/", timeout=5).status_code < 500
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)
