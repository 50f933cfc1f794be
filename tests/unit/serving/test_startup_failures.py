"""What Serve says of a deployment that does not start, as one sentence with its cause."""

import dataclasses
import traceback

import pytest

from raymlops.errors import ArtifactError, UnreachableError
from raymlops.serving import startup_failures


@dataclasses.dataclass
class Status:
    message: str


def as_serve_tells(error: Exception, left: int = 20) -> str:
    """A traceback within a traceback, as of a constructor in a replica."""
    try:
        try:
            raise error
        except Exception:
            raise RuntimeError(traceback.format_exc()) from None
    except RuntimeError:
        text = traceback.format_exc()
    return f"A replica failed to start with exception. Retrying {left} more time(s). Error:\n{text}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ArtifactError("Model 'm' (/x/m.onnx): No ONNX file"), "Model 'm' (/x/m.onnx): No ONNX file"),
        (ValueError("line one\nline two"), "ValueError: line one line two"),
        (ModuleNotFoundError("No module named 'mine'"), "ModuleNotFoundError: No module named 'mine'"),
        (KeyError("weights"), "KeyError: 'weights'"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_the_innermost_error_is_the_cause(error: Exception, told: str) -> None:
    deployments = {"Ingress": Status(as_serve_tells(error))}
    said = startup_failures.describe(deployments, "Failed to update the deployments ['Ingress'].")
    assert said == f"a replica cannot start: {told}"


def test_a_separate_node_is_named() -> None:
    deployments = {"Ingress": Status(""), "g.large": Status(as_serve_tells(ArtifactError("no file")))}
    assert startup_failures.describe(deployments, "") == "the separate node 'g.large' cannot start: no file"


DIED = """A replica failed to start with exception. Retrying 19 more time(s). Error:
Traceback (most recent call last):
  File "deployment_state.py", line 1, in check_ready
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: ServeReplica:app:Ingress
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR
"""


GIVEN_UP = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
ActorDiedError()"""


@pytest.mark.parametrize("text", [DIED, GIVEN_UP])
def test_a_process_that_ended_says_so(text: str) -> None:
    said = startup_failures.describe({"Ingress": Status(text)}, "")
    assert "its process ended while it started" in said
    assert "class_name" not in said


def test_a_build_that_fails_is_told_without_its_traceback() -> None:
    message = "Deploying app 'a' failed with exception:\n" + as_serve_tells(
        ArtifactError("Graph 'g': no file")
    )
    assert startup_failures.describe({}, message) == "Graph 'g': no file"


def test_without_a_cause_serves_own_words_are_told() -> None:
    assert (
        startup_failures.describe({"Ingress": Status("waits for a node")}, "")
        == "a replica: waits for a node"
    )
    assert startup_failures.describe({}, "") == "Serve gives no more details"


def test_what_the_next_start_would_repeat_is_given_up_at_once_and_a_passing_cause_is_not() -> None:
    seen: dict[str, set[str]] = {}
    assert startup_failures.count_failures({"Ingress": Status("all is well")}, seen) == 0
    passing = UnreachableError("the registry does not answer")
    for count in (1, 2, 3):
        told = {"Ingress": Status(as_serve_tells(passing, 20 - count))}
        assert startup_failures.count_failures(told, seen) == count
        assert startup_failures.count_failures(told, seen) == count  # the same failure, looked at again
    assert startup_failures.count_failures({"Ingress": Status(as_serve_tells(ValueError("x")))}, {}) > 3
