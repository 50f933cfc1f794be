"""Every exception that raymlops raises on purpose, with its HTTP status and exit code. Nothing else raises.

RaymlopsError            500, exit 1: our fault
├── UserError            400, exit 2: the caller can fix it
│   ├── SpecError        a spec or configuration file
│   ├── DataError        a dataset: unreadable, or against its contract
│   │   └── ColumnValueError  a value that is not of the type of its column
│   ├── InputError       a request's tensors or body
│   ├── AuthenticationError 401
│   ├── ForbiddenError   403
│   ├── NotFoundError    404: a model, version, route or file
│   ├── TooLargeError    413
│   ├── MediaTypeError   415: an unsupported Content-Type
│   ├── TooManyRequestsError 429
│   ├── ResourceError    the cluster cannot meet the demand
│   └── StorageError     a path or store that cannot be written or reached
│       └── UnreachableError  a store that does not answer now, but may later
├── ArtifactError        422, exit 2: a model file that is broken, unsafe, or not the one that was registered
│   └── UntrustedError   evidence that is missing, changed, or signed by no trusted key
├── ParityError          exit 1: the exported model's outputs differ from the trained network's
├── NodeError            500: a node of a graph failed
├── OverloadedError      503: queue full; try again later
│   └── ProcessEndedError  the process that ran a request ended; it is not retried
└── DeadlineError        504: not answered in time
"""

import difflib
import reprlib
from collections.abc import Iterable


class RaymlopsError(Exception):
    """One sentence: what happened, what was expected, and the remedy."""

    status = 500
    exit_code = 1


class RenamedWarning(FutureWarning):
    """A name that is still taken, and the one to write instead."""


class UserError(RaymlopsError):
    status = 400
    exit_code = 2


class SpecError(UserError):
    pass


class DataError(UserError):
    pass


class ColumnValueError(DataError):
    def __init__(self, message: str, column: str = "") -> None:
        super().__init__(message, column)
        self.column = column

    def __str__(self) -> str:
        return str(self.args[0])


class InputError(UserError):
    pass


class AuthenticationError(UserError):
    status = 401


class ForbiddenError(UserError):
    status = 403


class NotFoundError(UserError):
    status = 404


class TooLargeError(UserError):
    status = 413


class MediaTypeError(UserError):
    status = 415


class TooManyRequestsError(UserError):
    """`retry_after` is in seconds."""

    status = 429

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class ResourceError(UserError):
    pass


class StorageError(UserError):
    pass


class UnreachableError(StorageError):
    pass


class ArtifactError(RaymlopsError):
    status = 422
    exit_code = 2


class UntrustedError(ArtifactError):
    pass


class ParityError(RaymlopsError):
    pass


class NodeError(RaymlopsError):
    """A node of a composition graph failed; `node` is its name."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message, node)
        self.node = node

    def __str__(self) -> str:
        return str(self.args[0])


class OverloadedError(RaymlopsError):
    """`retry_after` is in seconds."""

    status = 503

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class ProcessEndedError(OverloadedError):
    pass


class DeadlineError(RaymlopsError):
    status = 504


_COMPARED, _SHOWN = 500, 50
"""Number of known names compared with a wrong one, and number of them shown."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """A sentence with similar names: `Unknown network 'mpl'; did you mean 'mlp'? Known: cnn, mlp`.

    Wrong names come from outside: how much of them is compared and shown is limited.
    """
    names = sorted(known)
    given = name if isinstance(name, str) else reprlib.repr(name)
    near = difflib.get_close_matches(given, names[:_COMPARED], n=1, cutoff=0.5) if len(given) <= 200 else []
    hint = f" did you mean {near[0]!r}?" if near else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(names[:_SHOWN]) or "none"
    return f"Unknown {kind} {shorten(given)!r};{hint} Known: {to_one_line(shown)}{more}"


def to_one_line(text: str) -> str:
    """With blanks for what would break a sentence, such as a line break in the name of a column."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def shorten(text: str, most: int = 200) -> str:
    """A text cut to a maximum number of characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def describe_cause(error: BaseException, most: int = 500) -> str:
    """The type and message of any exception, on at most `most` characters. Those of other people's code may have no
    message: `str` of them raises."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    return shorten(text, most)


def encodable(text: str) -> str:
    """The text with unpaired surrogates, which UTF-8 cannot encode, replaced by question marks."""
    return text.encode(errors="replace").decode()


def last_line(error: BaseException | str | None) -> str:
    """The sentence at the end of a Ray error, which holds a whole traceback."""
    lines = [line for line in str(error or "unknown").strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "unknown"
