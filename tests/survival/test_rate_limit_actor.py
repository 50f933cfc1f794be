"""The actor that counts requests for all replicas is lost with its node, and counts again on another."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_rate_is_shared_again_after_the_node_of_its_counter_was_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.survival.lost_rate_bank"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"before": 10, "alone": 2, "moved": True, "after": [10, 0]}
