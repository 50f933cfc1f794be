"""The tamper-evident record of what was done to a registered model's versions and aliases, by whom and why.

Entries are tags of the registered model, each with the sha256 of the previous one and a signature. A signed head,
also kept with a run, names the last entry. So entries that were changed, dropped, cut off, moved, taken from another
model, or signed by an untrusted key are found. Tampering is detected, not prevented. Not detected: what the holder of
a trusted key signs, and a store restored as a whole, run included, by a user who has not seen anything later.

Entries are written under a lease (raymlops.tracking.lease). A writer that lost its lease may leave an entry that does
not follow the head; it does not count.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow

from raymlops import attestation
from raymlops.attestation import SigningKey, TrustedKeys
from raymlops.errors import NotFoundError, StorageError, UntrustedError
from raymlops.settings import Settings
from raymlops.tracking import lease, manifests, record_run
from raymlops.tracking.lookup import find_model
from raymlops.tracking.manifests import ANCHOR_TAG, MANIFEST_TAG
from raymlops.tracking.record_run import RUN_TAG, Head

TAG = "raymlops.history."
ENTRY_PAYLOAD = "application/vnd.raymlops.history-entry+json"
_READERS = 16
_TYPES = {"index": int, "number": int, "forced": bool, "root": bool}  # for fields that do not hold text
# fields that the oldest entries do not have
_LATER_FIELDS = {"manifest": "", "model": "", "number": 0, "root": False}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One recorded action. `verdict` is the sha256 of the gate's verdict, empty if no gate was run."""

    index: int
    at: str
    who: str
    action: str
    """register, gate, promote, search, rollback, sign, repair, adopt, delete."""
    alias: str
    """Empty if no alias was moved."""
    version: str
    before: str
    why: str
    forced: bool = False
    verdict: str = ""
    parent: str = ""
    manifest: str = ""
    """sha256 of the version's manifest after this entry."""
    model: str = ""
    number: int = 0
    """The number of the lease under which it was written."""
    root: bool = False
    """A repair that restarts the record: earlier entries are shown but no longer proven."""

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return attestation.digest_of(self.to_text().encode())

    def to_text(self) -> str:
        held = dataclasses.asdict(self)
        later = {name for name, default in _LATER_FIELDS.items() if held[name] == default}
        return attestation.canonical(
            {name: value for name, value in held.items() if name not in later}
        ).decode()

    def __str__(self) -> str:
        before = f" (before: {self.before})" if self.before else ""
        forced = ", forced past the gate" if self.forced else ""
        what = f"{self.action} {self.alias} -> " if self.alias else f"{self.action} "
        rest = "captured rows" if self.action == "delete" else "the record"
        version = f"version {self.version}" if self.version else "nothing" if self.alias else rest
        return (
            f"{self.index:>4}  {self.at}  {what}{version}{before} by "
            f"{self.who}{forced}: {self.why or 'no reason given'}"
        )


@dataclasses.dataclass(frozen=True)
class Record:
    """The entries in order, and their problems; a record without problems is valid."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Remarks that are no sign of tampering."""
    head: Head | None = None
    unfinished: Entry | None = None
    """The signed entry of a writer that stopped before it wrote the head."""
    late: tuple[Entry, ...] = ()
    """Entries of writers whose lease had ended; they do not count."""
    run: str = ""

    @property
    def aliases(self) -> dict[str, str]:
        """Alias -> version, according to the record; an empty version means that the alias was removed."""
        return {entry.alias: entry.version for entry in self.entries if entry.alias}

    @property
    def manifests(self) -> dict[str, str]:
        """Version -> digest of its manifest, according to the record."""
        return {entry.version: entry.manifest for entry in self.entries if entry.version and entry.manifest}

    @property
    def anchors(self) -> dict[str, str]:
        """Version -> the last entry on it, according to the version's tag."""
        return {entry.version: anchor_of(entry) for entry in self.entries if entry.version}


def key_of(entry: Entry) -> str:
    """The tag's key; it depends on the entry, so a changed entry no longer fits its key."""
    return f"{TAG}{entry.index:06d}.{entry.digest[:16]}"


def anchor_of(entry: Entry) -> str:
    return f"{entry.index}:{entry.digest}"


def verify(
    held: Mapping[str, str],
    aliases: Mapping[str, str] | None = None,
    anchors: Sequence[str] = (),
    *,
    name: str = "",
    keys: TrustedKeys | None = None,
    head: Head | None = None,
) -> Record:
    """Check stored entries, tag key -> text.

    `aliases` are the present aliases; `anchors` are `index:sha256` from the versions' tags; `head` is the newest head
    that a trusted key signed, None if there is none. A pure function.
    """
    problems: list[str] = []
    found: list[Entry] = []
    signed: dict[str, bool] = {}
    for key, text in sorted(held.items()):
        try:
            entry, signature = read_entry(text)
        except (ValueError, TypeError):
            problems.append(f"entry {key.removeprefix(TAG)} cannot be read")
            continue
        if key != key_of(entry):
            problems.append(f"entry {entry.index} was changed after it was written")
        found.append(entry)
        signed[entry.digest] = _is_signed(entry, signature, keys or {}, name)
    found.sort(key=lambda entry: entry.index)
    if head is None:
        record = _follow_indices(found)
        if any(entry.model for entry in found):
            problems.append("the record is signed, but it has no head that a trusted key signed")
    else:
        record = _follow_head(found, head, signed)
    problems += record.problems
    known = {anchor_of(entry) for entry in record.entries}
    problems += [
        f"entry {anchor.partition(':')[0]} is missing or changed: a version's tag names it"
        for anchor in anchors
        if anchor and anchor not in known
    ]
    if record.entries or head is not None or problems:
        problems += compare_aliases(record, aliases)
    elif aliases:
        notes = ("the aliases were set before the record was started",)
        record = dataclasses.replace(record, notes=notes)
    return dataclasses.replace(record, problems=tuple(dict.fromkeys(problems)))


def read_entry(text: str) -> tuple[Entry, Mapping[str, Any] | None]:
    """Raises ValueError or TypeError if the text is not an entry."""
    try:
        held = json.loads(text)
    except RecursionError:
        raise ValueError("lists within lists") from None
    if not isinstance(held, dict):
        raise TypeError(f"expected an entry, not {type(held).__name__}")
    signature = held.pop("signature", None)
    entry = Entry(**held)
    for field in dataclasses.fields(entry):
        if type(getattr(entry, field.name)) is not _TYPES.get(field.name, str):
            raise TypeError(f"{field.name} is {type(getattr(entry, field.name)).__name__}")
    return entry, signature if isinstance(signature, dict) else None


def is_valid_entry(key: str, text: str, record: Record) -> bool:
    """Whether a tag holds an entry that fits its key, and is in the record or before its end."""
    try:
        entry, _ = read_entry(text)
    except (ValueError, TypeError):
        return False
    last = record.head.index if record.head else len(record.entries)
    return key == key_of(entry) and (entry in record.entries or entry.index <= last)


def write_entry(entry: Entry, key: SigningKey) -> str:
    signature = key.sign_apart(entry.to_text().encode(), ENTRY_PAYLOAD)
    return attestation.canonical({**json.loads(entry.to_text()), "signature": signature}).decode()


def _is_signed(entry: Entry, signature: Mapping[str, Any] | None, keys: TrustedKeys, name: str) -> bool:
    if signature is None or entry.model != name:
        return False
    try:
        attestation.verify_apart(entry.to_text().encode(), ENTRY_PAYLOAD, signature, keys)
    except UntrustedError:
        return False
    return True


def _follow_indices(found: Sequence[Entry]) -> Record:
    """For an unsigned record: each entry must follow the previous one."""
    problems, parent = [], ""
    for place, entry in enumerate(found, start=1):
        if entry.index != place or entry.parent != parent:
            problems.append(
                f"entry {entry.index} does not follow the previous one; an entry was dropped or moved"
            )
        parent = entry.digest
    return Record(tuple(found), tuple(problems))


def _follow_head(found: Sequence[Entry], head: Head, signed: Mapping[str, bool]) -> Record:
    """From the head backwards, each entry found by the sha256 in the next one."""
    known = {entry.digest: entry for entry in found}
    chain: list[Entry] = []
    problems: list[str] = []
    digest, index = head.entry, head.index
    while digest:
        entry = known.get(digest)
        if entry is None or entry.index != index:
            says = f"entry {chain[-1].index} follows it" if chain else "the signed head names it"
            problems.append(f"entry {index} is missing or changed: {says}; an entry was dropped or moved")
            break
        chain.append(entry)
        digest, index = ("", 0) if entry.root else (entry.parent, index - 1)
    first = chain[-1] if chain else None
    earlier = first.index if first and first.root else index + 1 if problems else 0
    unfinished, late, notes = None, [], []
    for entry in found:
        if entry in chain or entry.index < earlier:
            continue
        follows = entry.index == head.index + 1 and entry.parent == head.entry
        if not signed[entry.digest]:
            problems.append(f"entry {entry.index} ({entry.digest[:8]}) was not signed by a trusted key")
        elif entry.number < head.number:
            late.append(entry)
            notes.append(
                f"entry {entry.index} ({entry.digest[:8]}) was written after its lease had ended, and "
                "does not count"
            )
        elif (follows or entry.root) and unfinished is None:
            unfinished = entry
            problems.append(f"entry {entry.index} was started and not finished: its writer was stopped")
        else:
            problems.append(
                f"entry {entry.index} ({entry.digest[:8]}) does not follow the head of the record"
            )
    if first and first.root:
        notes.append(f"the record restarts at entry {first.index}; what was before is not proven")
    return Record(
        tuple(reversed(chain)), tuple(problems), tuple(notes), head, unfinished=unfinished, late=tuple(late)
    )


def compare_aliases(record: Record, aliases: Mapping[str, str] | None) -> list[str]:
    said = record.aliases
    problems = []
    for alias, version in (aliases or {}).items():
        if said.get(alias, "") != str(version):
            says = f"version {said[alias]}" if said.get(alias) else "nothing"
            problems.append(f"alias {alias!r} is at version {version}, but the record says {says}")
    problems += [
        f"alias {alias!r} is gone, but the record says version {version}"
        for alias, version in said.items()
        if aliases is not None and version and alias not in aliases
    ]
    return problems


def read_record(client: mlflow.MlflowClient, name: str, settings: Settings) -> Record:
    """The record of a registered model, checked for entries, head and aliases, without the versions.

    Waits while a writer is at work. Raises NotFoundError with similar names.
    """
    ends = time.monotonic() + lease.LEASE_S + 1
    while True:
        record, writing = read_once(client, name, settings)
        if not record.problems or not writing or time.monotonic() > ends:
            return record
        time.sleep(0.1)


def read_once(client: mlflow.MlflowClient, name: str, settings: Settings) -> tuple[Record, bool]:
    """The record, and whether somebody is writing it or has just done so."""
    keys = attestation.load_trusted_keys(settings)
    begun = tags_of(find_model(client, name))
    run = record_run.find_run(client, name, begun.get(RUN_TAG, ""))
    head, foul = record_run.read_head(client, name, run, keys)
    registered = find_model(client, name)
    tags = tags_of(registered)
    aliases = {str(alias): str(version) for alias, version in dict(registered.aliases).items()}
    held = {key: value for key, value in tags.items() if key.startswith(TAG)}
    record = verify(held, aliases, name=name, keys=keys, head=head)
    problems = [*foul, *record.problems]
    if head is not None and tags.get(RUN_TAG) != run:
        problems.append(f"the tag {RUN_TAG} does not name the run of the record, {run}")
    problems += _compare_memory(record, record_run.load_seen_head(name, settings))
    if head is not None and not problems:
        with contextlib.suppress(StorageError):  # a reader that may not write remembers nothing
            record_run.remember_head(head, settings)
    notes = record.notes
    if head is None and record.entries and not problems:
        notes = (
            *notes,
            (
                "the record is not signed: it was made before records were signed, or by a key that is "
                "not trusted"
            ),
        )
    writing = bool(lease.find_writers(tags)) or begun != tags
    return dataclasses.replace(record, problems=tuple(problems), notes=notes, run=run), writing


def tags_of(registered: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in dict(registered.tags).items()}


def _compare_memory(record: Record, seen: Head | None) -> list[str]:
    """Contradictions to the newest head that this user has seen."""
    if seen is None:
        return []
    head = record.head
    if head is None or head.order < seen.order or (head.order == seen.order and head != seen):
        ends = f"ends at entry {head.index}" if head else "has no head"
        return [f"the record {ends}, but its entry {seen.index} ({seen.entry[:8]}) has been seen here before"]
    anew = bool(record.entries) and record.entries[0].root
    if not record.problems and not anew and seen.entry not in {entry.digest for entry in record.entries}:
        return [
            f"entry {seen.index} ({seen.entry[:8]}), which has been seen here before, is not in the record"
        ]
    return []


def require_whole(name: str, record: Record) -> None:
    """Raises UntrustedError if the record has problems."""
    if record.problems:
        raise UntrustedError(
            f"The record of {name!r} is not valid: {'; '.join(record.problems[:5])}. Look at `raymlops history "
            f"{shlex.quote(name)}`; once you know the cause, fix it: raymlops history {shlex.quote(name)} "
            "--repair --why REASON"
        )


def read_history(client: mlflow.MlflowClient, name: str, settings: Settings) -> Record:
    """The record of a registered model, with every version compared with its signed manifest.

    The model files of versions are compared when they are loaded. Raises NotFoundError with similar names.
    """
    ends = time.monotonic() + lease.LEASE_S + 1
    again = False
    while True:
        record, writing = read_once(client, name, settings)
        versions = client.search_model_versions(f"name='{name}'", max_results=10_000)
        problems, notes = compare_versions(client, record, versions, settings)
        found = dataclasses.replace(
            record,
            problems=tuple(dict.fromkeys([*record.problems, *problems])),
            notes=(*record.notes, *notes),
        )
        if not found.problems or (again and not writing) or time.monotonic() > ends:
            return found
        again = True  # a writer may have written between the reads of the record and of the versions
        time.sleep(0.1)


def compare_versions(
    client: mlflow.MlflowClient, record: Record, versions: Sequence[Any], settings: Settings
) -> tuple[list[str], list[str]]:
    """Problems and notes of MLflow's version entities, compared with the record and their manifests."""
    keys = attestation.load_trusted_keys(settings)
    problems, notes = [], []
    there = {str(version.version): version for version in versions}
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(
            lambda version: compare_version(client, record, version, keys, documents=True), there.values()
        )
        for number, words in zip(there, found, strict=True):
            problems += [f"version {number}: {word}" for word in words]
    aliased = set(record.aliases.values())
    for number in {**record.anchors, **record.manifests}:
        if number not in there and number not in aliased:
            notes.append(f"version {number} is no longer there")
    unsigned = [number for number in there if number not in record.manifests]
    if record.head is not None and unsigned:
        notes.append(f"versions without signed evidence: {', '.join(sorted(unsigned, key=int))}")
    return problems, notes


def compare_version(
    client: mlflow.MlflowClient, record: Record, version: Any, keys: TrustedKeys, *, documents: bool = False
) -> list[str]:
    """Problems of a version, compared with the record and its manifest, and with `documents` also with the files of
    its run; empty for a version that was never signed."""
    number = str(version.version)
    tags = tags_of(version)
    problems = []
    expected, anchor = record.manifests.get(number, ""), record.anchors.get(number, "")
    if tags.get(ANCHOR_TAG, "") != anchor:
        index = (tags.get(ANCHOR_TAG) or anchor).partition(":")[0]
        problems.append(
            f"its tag {ANCHOR_TAG} does not name entry {index}, or that entry is missing or changed"
        )
    if tags.get(MANIFEST_TAG, "") != expected:
        says = f"the record says {expected[:12]}" if expected else "the record has none"
        problems.append(f"its tag {MANIFEST_TAG} is {tags.get(MANIFEST_TAG, 'gone')[:12]}, but {says}")
    if expected:
        try:
            manifest = manifests.read_manifest(client, record.run, expected, keys)
            problems += manifests.compare_version(manifest, version)
            problems += manifests.compare_documents(client, manifest) if documents else []
        except UntrustedError as error:
            problems.append(str(error))
    return problems


def find_previous(record: Record, alias: str) -> str:
    """The version that the alias named before the present one, skipping versions that were rolled back.

    Raises NotFoundError if there is none.
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
