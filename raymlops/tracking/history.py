"""Who moved which alias when and why: a record whose edits show, kept as tags of the registered model itself.

Each entry names the sha256 of the one before it, and each version that got an alias keeps the hash of its
entry, so that an entry that was changed, dropped or moved is found. Tampering shows; it is not prevented.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from raymlops.errors import NotFoundError, StorageError, unknown_name
from raymlops.tracking import registry

TAG = "raymlops.history."
ANCHOR_TAG = "raymlops.history"
PENDING_TAG = "raymlops.writing."
_LONGEST = 1500  # characters of a reason; a tag holds 5000 in all
_PATIENCE = 30.0  # seconds that a writer waits for its turn
_STALE = 60.0  # seconds after which a writer that did not finish is taken for dead


@dataclasses.dataclass(frozen=True)
class Entry:
    """One move of an alias. `verdict` is the sha256 of the gate's verdict, empty when no gate was asked."""

    index: int
    at: str
    who: str
    action: str
    alias: str
    version: str
    before: str
    why: str
    forced: bool = False
    verdict: str = ""
    parent: str = ""

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def to_text(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=True, separators=(",", ":"))

    def __str__(self) -> str:
        before = f" (before: {self.before})" if self.before else ""
        forced = ", forced past the gate" if self.forced else ""
        return (
            f"{self.index:>4}  {self.at}  {self.action} {self.alias} -> version {self.version}{before} by "
            f"{self.who}{forced}: {self.why or 'no reason given'}"
        )


@dataclasses.dataclass(frozen=True)
class Record:
    """The entries in order, and what is wrong with them; no problem means that the record holds."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]


def verify(
    held: Mapping[str, str], aliases: Mapping[str, str] | None = None, anchors: Sequence[str] = ()
) -> Record:
    """Check stored entries, tag's key -> text.

    `aliases` is where aliases stand now; `anchors` are `index:sha256` of the versions. Pure.
    """
    entries, problems = [], []
    for key, text in sorted(held.items()):
        try:
            entry = Entry(**json.loads(text))
        except (ValueError, TypeError):
            problems.append(f"entry {key.removeprefix(TAG)} cannot be read")
            continue
        if key != key_of(entry):
            problems.append(f"entry {entry.index} was changed after it was written")
        entries.append(entry)
    entries.sort(key=lambda entry: entry.index)
    parent = ""
    for place, entry in enumerate(entries, start=1):
        if entry.index != place or entry.parent != parent:
            problems.append(
                f"entry {entry.index} does not follow the one before it; an entry was dropped or moved"
            )
        parent = entry.digest
    known = {f"{entry.index}:{entry.digest}" for entry in entries}
    problems += [
        f"entry {anchor.partition(':')[0]} is missing or changed: a version was moved by it"
        for anchor in anchors
        if anchor and anchor not in known
    ]
    for alias, version in (aliases or {}).items():
        last = next((entry for entry in reversed(entries) if entry.alias == alias), None)
        if last is None or last.version != str(version):
            says = f"version {last.version}" if last else "nothing"
            problems.append(f"alias {alias!r} is at version {version}, but the record says {says}")
    return Record(tuple(entries), tuple(dict.fromkeys(problems)))


def key_of(entry: Entry) -> str:
    """The tag's key; an entry that is written anew under its own key no longer fits it."""
    return f"{TAG}{entry.index:06d}.{entry.digest[:16]}"


def read_history(client: mlflow.MlflowClient, name: str) -> Record:
    """The record of a registered model, verified. Raises NotFoundError with the near names."""
    registered = find_model(client, name)
    versions = client.search_model_versions(f"name='{name}'", max_results=10_000)
    anchors = [str(version.tags.get(ANCHOR_TAG, "")) for version in versions]
    aliases = {str(alias): str(version) for alias, version in dict(registered.aliases).items()}
    return verify(_held(registered), aliases, anchors)


def move_alias(
    client: mlflow.MlflowClient,
    name: str,
    alias: str,
    version: str,
    *,
    who: str,
    why: str,
    action: str = "promote",
    forced: bool = False,
    verdict: str = "",
) -> Entry:
    """Record a move, then make it; a crash in between shows as a problem of the record.

    Raises NotFoundError when the version is not there.
    """
    registry.find_version(client, f"models:/{name}/{version}")
    with _turn(client, name):
        registered = find_model(client, name)
        last = max(verify(_held(registered)).entries, key=lambda entry: entry.index, default=None)
        entry = Entry(
            index=last.index + 1 if last else 1,
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            who=who,
            action=action,
            alias=alias,
            version=str(version),
            before=str(dict(registered.aliases).get(alias, "")),
            why=why[:_LONGEST],
            forced=forced,
            verdict=verdict,
            parent=last.digest if last else "",
        )
        client.set_registered_model_tag(name, key_of(entry), entry.to_text())
        client.set_model_version_tag(name, str(version), ANCHOR_TAG, f"{entry.index}:{entry.digest}")
        client.set_registered_model_alias(name, alias, str(version))
    return entry


def find_previous(record: Record, alias: str) -> str:
    """The version the alias named before the present one, skipping what was rolled back.

    Raises NotFoundError when there is none.
    """
    stack: list[str] = []
    for entry in record.entries:
        if entry.alias != alias:
            continue
        if entry.action == "rollback" and len(stack) > 1:
            stack.pop()
            if stack[-1] != entry.version:
                stack.append(entry.version)
        elif not stack or stack[-1] != entry.version:
            if not stack and entry.before:
                stack.append(entry.before)
            stack.append(entry.version)
    if len(stack) < 2:
        raise NotFoundError(
            f"Alias {alias!r} has no version before this one; name one: raymlops promote NAME VERSION"
        )
    return stack[-2]


def find_model(client: mlflow.MlflowClient, name: str) -> Any:
    """MLflow's entity of a registered model. Raises NotFoundError with the near names."""
    try:
        return client.get_registered_model(name)
    except MlflowException:
        known = [model.name for model in client.search_registered_models(max_results=1000)]
        raise NotFoundError(unknown_name("model", name, known)) from None


@contextlib.contextmanager
def _turn(client: mlflow.MlflowClient, name: str) -> Iterator[None]:
    """One writer at a time, over a store whose tags know no compare-and-set.

    Announce, then look: of two writers at least the later one sees the other, and gives way for a moment.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        mine = f"{PENDING_TAG}{time.time():.3f}.{uuid.uuid4().hex[:8]}"
        client.set_registered_model_tag(name, mine, "writing")
        try:
            others = [key for key in client.get_registered_model(name).tags if key.startswith(PENDING_TAG)]
            stale = [key for key in others if float(key.split(".")[-3]) < time.time() - _STALE]
            for key in stale:
                client.delete_registered_model_tag(name, key)
            if set(others) - set(stale) <= {mine}:
                yield
                return
        finally:
            client.delete_registered_model_tag(name, mine)
        if time.monotonic() > until:
            raise StorageError(
                f"Someone else is writing the history of {name!r}; waited {_PATIENCE} s, try again"
            )
        time.sleep(random.uniform(0.01, 0.3))  # noqa: S311 - to part two writers, not to hide anything


def _held(registered: Any) -> dict[str, str]:
    return {key: value for key, value in dict(registered.tags).items() if key.startswith(TAG)}
