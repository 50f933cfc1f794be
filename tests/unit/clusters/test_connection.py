"""What a driver shows of its cluster, and how it says what it waits for."""

import pytest

from raymlops.clusters.connection import filter_lines
from raymlops.clusters.shortage import Usage, explain_waiting

BANNER = [
    "INFO 2026-11-26 12:55:42,921 serve 31576 -- Throughput optimized Ray Serve enabled with these:",
    "  • Direct ingress enabled",
    "",
]


def test_serves_words_of_itself_are_left_out_and_what_is_wrong_is_kept() -> None:
    wrong = [
        "ERROR 2026-11-26 12:55:42,921 serve 31576 -- it broke",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
        "WARNING 2026-11-26 12:55:42,921 serve 31576 -- it is slow",
    ]
    assert filter_lines("ServeController", BANNER + wrong) == wrong


def test_what_replicas_and_others_print_is_kept() -> None:
    access = ['{"time": 1, "status": 200}', "a line of a user's node"]
    assert filter_lines("ServeReplica:app:Ingress", access) == access
    assert filter_lines("", BANNER) == BANNER  # a user's own task
    assert (
        filter_lines("", ["Task ServeController.graceful_shutdown failed. It was killed by `ray.kill`."])
        == []
    )
    assert filter_lines("", ["Task train failed. It was killed by `ray.kill`."])


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"CPU": 1}, "Waits for 1 CPU: 2 of 2 CPU are used by application flights (1.5), Trial (0.5). "),
        ({"CPU": 1, "GPU": 1}, "; and for 1 GPU, and all nodes together have 0 GPU. "),
        ({"CPU": 4}, "Waits for 4 CPU, and all nodes together have 2 CPU. "),
        ({"memory": 2**31}, "Waits for 2 GiB of memory: 3 of 4 GiB of memory are used. "),
    ],
)
def test_what_is_waited_for_is_told_with_who_has_it(wanted: dict[str, float], told: str) -> None:
    usage = {
        "CPU": Usage(2, 2, {"Trial": 0.5, "application flights": 1.5}),
        "memory": Usage(2**32, 3 * 2**30),
    }
    said = explain_waiting(wanted, usage)
    assert told in said
    assert said.endswith("add a node")


def test_what_has_a_place_waits_for_nothing() -> None:
    assert explain_waiting({"CPU": 1}, {"CPU": Usage(2, 1)}) == ""
    assert explain_waiting({}, {}) == ""
