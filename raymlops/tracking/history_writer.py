"""Writes the record of a registered model: one entry for each action, as the only writer.

An entry is written in this order: its tag, the head, the tags of the version, the alias. If a writer stops in
between, the next writer notices, finishes what was started and signed, and records that.
"""

import contextlib
import dataclasses
import datetime
import json
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from raymlops import attestation
from raymlops.errors import StorageError, UntrustedError
from raymlops.settings import Settings
from raymlops.tracking import history, lease, manifests, record_run
from raymlops.tracking.history import Entry, Record, anchor_of, key_of, require_whole, tags_of
from raymlops.tracking.lease import Lease, LeaseLostError
from raymlops.tracking.lookup import find_model, find_version
from raymlops.tracking.manifests import ANCHOR_TAG, MANIFEST_TAG, Manifest
from raymlops.tracking.record_run import RUN_TAG, Head

_LONGEST = 1500  # longest reason, in characters of JSON; a tag holds 5000 in all
_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Change:
    """An action to do and record. A `manifest` is stored, and becomes the version's."""

    action: str
    version: str
    why: str
    who: str
    alias: str = ""
    forced: bool = False
    verdict: str = ""
    manifest: Manifest | None = None


def move_alias(
    client: mlflow.MlflowClient,
    name: str,
    alias: str,
    version: str,
    *,
    settings: Settings,
    why: str,
    who: str = "",
    action: str = "promote",
    forced: bool = False,
    verdict: str = "",
) -> Entry:
    """Record a move of an alias, then make it; after a crash in between, the record shows a problem.

    Raises NotFoundError if the version does not exist, and UntrustedError if the record has problems, unless
    `forced`.
    """
    find_version(client, f"models:/{name}/{version}")
    change = Change(action, str(version), why, who or settings.user, alias, forced, verdict)
    return append(client, name, settings, change, anyway=forced)


def append(
    client: mlflow.MlflowClient, name: str, settings: Settings, change: Change, *, anyway: bool = False
) -> Entry:
    """Record a change and make it, as the only writer.

    Raises UntrustedError if the record has problems, unless `anyway`; StorageError if others write for too long.
    """
    writer = _Writer(client, name, settings)
    for _ in range(_TRIES):
        with writer.hold() as lease:
            try:
                return writer.append(lease, change, anyway=anyway)
            except LeaseLostError:
                continue
    raise StorageError(f"Others took over the history of {name!r} {_TRIES} times; try again")


class _Writer:
    """Writes entries of one model. Remembers what it wrote, in case it is stopped and loses its lease."""

    def __init__(self, client: mlflow.MlflowClient, name: str, settings: Settings) -> None:
        self._client = client
        self._name = name
        self._settings = settings
        self._key = attestation.load_signing_key(settings)
        self._keys = attestation.load_trusted_keys(settings)
        seen = record_run.load_seen_head(name, settings)
        self._floor = seen.number if seen else 0
        self._written: set[str] = set()
        self._mine: Entry | None = None
        """The entry that was being written when the lease was lost."""

    def hold(self) -> Any:
        return lease.hold(self._client, self._name, self._floor)

    def read(self, lease: Lease) -> Record:
        """The record. Raises LeaseLostError if the lease's number is not above the head's, as after the tags of
        leases were deleted: the next try gets a higher one."""
        record = history.read_once(self._client, self._name, self._settings)[0]
        head = record.head
        if head is not None and head.number >= lease.number and head.entry not in self._written:
            self._floor = head.number
            raise LeaseLostError(f"The record of {self._name!r} is at lease {head.number} already")
        return record

    def append(self, lease: Lease, change: Change, *, anyway: bool) -> Entry:
        record_run.ensure_run(self._client, self._name, self._settings)
        done = self._recover_entry(lease)
        if done is not None:
            return done
        if lease.dead:
            self.finish(lease, "by the next writer")
        record = self._begin(lease, self.read(lease))
        if record.problems:
            if not anyway:
                require_whole(self._name, record)
            why = f"{change.why} [though the record did not hold: {'; '.join(record.problems)}]"
            change = dataclasses.replace(change, why=why, forced=True)
        self._remove_late(record)
        return self.write(lease, record, change)

    def _begin(self, lease: Lease, record: Record) -> Record:
        """Record the aliases that were set before the record was started."""
        if record.head is not None or record.entries or record.problems:
            return record
        for alias, version in dict(find_model(self._client, self._name).aliases).items():
            change = Change("adopt", str(version), "as it was found", self._settings.user, str(alias))
            self.write(lease, self.read(lease), change)
        return self.read(lease)

    def write(self, lease: Lease, record: Record, change: Change, *, root: bool = False) -> Entry:
        """Write the entry and the head, then apply them: the tags of the version and the alias."""
        last = record.head or _last_head(record)
        now = dict(find_model(self._client, self._name).aliases)
        manifest = record.manifests.get(change.version, "")
        if change.manifest is not None:
            statement = change.manifest.to_statement()
            manifest = attestation.digest_of(statement)
            envelope = self._key.sign(statement, attestation.STATEMENT_PAYLOAD)
            record_run.write_manifest(self._client, record.run, manifest, envelope)
        entry = Entry(
            index=last.index + 1,
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            who=change.who,
            action=change.action,
            alias=change.alias,
            version=change.version,
            before=str(now.get(change.alias, "")) if change.alias else "",
            why=_cut(change.why),
            forced=change.forced,
            verdict=change.verdict,
            parent="" if root else last.entry,
            manifest=manifest,
            model=self._name,
            number=lease.number,
            root=root,
        )
        lease.check()
        self._mine = entry
        self._written.add(entry.digest)
        self._client.set_registered_model_tag(
            self._name, key_of(entry), history.write_entry(entry, self._key)
        )
        lease.check()
        self._write_head(record.run, entry)
        lease.check()
        self.apply(entry, change.manifest)
        lease.check()
        self._mine = None
        return entry

    def _write_head(self, run: str, entry: Entry) -> None:
        head = Head(self._name, entry.index, entry.digest, entry.number, run)
        record_run.write_head(self._client, run, head, self._key)

    def apply(self, entry: Entry, manifest: Manifest | None, anchor: str = "") -> None:
        """Apply an entry. May be done twice."""
        if entry.version:
            tags = {ANCHOR_TAG: anchor or anchor_of(entry)}
            if entry.manifest:
                tags[MANIFEST_TAG] = entry.manifest
            there = tags_of(find_version(self._client, f"models:/{self._name}/{entry.version}"))
            wanted = {**(manifest.facts if manifest else {}), **tags}
            for key, value in wanted.items() - there.items():
                self._client.set_model_version_tag(self._name, entry.version, key, value)
        if entry.alias and entry.version:
            self._client.set_registered_model_alias(self._name, entry.alias, entry.version)
        elif entry.alias:
            with contextlib.suppress(MlflowException):  # it is already gone
                self._client.delete_registered_model_alias(self._name, entry.alias)

    def _recover_entry(self, lease: Lease) -> Entry | None:
        """After a lost lease: if the entry counts, apply it unless later entries changed the same, and return it;
        else remove its traces and return None."""
        mine, self._mine = self._mine, None
        if mine is None:
            return None
        record = self.read(lease)
        lease.check()
        if record.aliases.get(mine.alias):  # it may have been moved after the lease had ended
            version = record.aliases[mine.alias]
            self._client.set_registered_model_alias(self._name, mine.alias, version)
        if mine not in record.entries:
            self._client.delete_registered_model_tag(self._name, key_of(mine))
            return None
        if record.anchors.get(mine.version) == anchor_of(mine):  # the alias is already where the record says
            self.apply(dataclasses.replace(mine, alias=""), self._manifest_of(record, mine), anchor_of(mine))
        return mine

    def _manifest_of(self, record: Record, entry: Entry) -> Manifest | None:
        if not entry.manifest:
            return None
        return manifests.read_manifest(self._client, record.run, entry.manifest, self._keys)

    def _remove_late(self, record: Record) -> None:
        for entry in record.late:
            self._client.delete_registered_model_tag(self._name, key_of(entry))

    def finish(self, lease: Lease, how: str) -> list[Entry]:
        """Complete the entries that stopped writers had started and signed, and record that."""
        record = self.read(lease)
        begun = record.unfinished
        last = begun or (record.entries[-1] if record.entries else None)
        if last is None or last.number not in lease.dead:
            return []
        lease.check()
        if begun is not None:
            self._write_head(record.run, begun)
        self.apply(last, self._manifest_of(record, last))
        why = f"finished entry {last.index}, whose writer was stopped, {how}"
        return [self.write(lease, self.read(lease), Change("repair", "", why, self._settings.user))]

    def repair(self, lease: Lease, why: str) -> list[str]:
        """Finish what was started, and set tags and aliases to what the record says; if the record itself is damaged,
        restart it from what can be proven. Returns what was done."""
        client, name = self._client, self._name
        run = record_run.ensure_run(client, name, self._settings)
        done: list[str] = []
        record = self._begin(lease, self.read(lease))
        if record.unfinished is not None:
            self._write_head(run, record.unfinished)
            done.append(f"finished entry {record.unfinished.index}")
            record = self.read(lease)
        self._remove_late(record)
        gone = self._restore(lease, record, done)
        record = self.read(lease)
        versions = client.search_model_versions(f"name='{name}'", max_results=10_000)
        damaged = history.compare_versions(client, record, versions, self._settings)[0]
        said = history.compare_aliases(record, dict(find_model(client, name).aliases))
        if set(record.problems) - set(said) or damaged:
            self._restart_record(lease, record, versions, why, done)
        else:
            change = Change(
                "repair", "", f"{why} ({'; '.join(done) or 'nothing was broken'})", self._settings.user
            )
            self.write(lease, record, change)
            for alias in gone:
                self.write(lease, self.read(lease), dataclasses.replace(change, alias=alias))
        return done

    def _restore(self, lease: Lease, record: Record, done: list[str]) -> list[str]:
        """Restore aliases and the tags of versions; returns the aliases whose version is gone."""
        client, name = self._client, self._name
        now = {str(alias): str(version) for alias, version in dict(find_model(client, name).aliases).items()}
        there = {
            str(one.version): one
            for one in client.search_model_versions(f"name='{name}'", max_results=10_000)
        }
        latest = {entry.version: entry for entry in record.entries if entry.version}
        for number, entry in latest.items():
            manifest = record.manifests.get(number, "")
            if number not in there or not history.compare_version(client, record, there[number], self._keys):
                continue
            lease.check()
            try:
                found = self._manifest_of(record, dataclasses.replace(entry, manifest=manifest))
            except UntrustedError:
                continue  # an unreadable manifest cannot be restored
            for tag in tags_of(there[number]):
                if (
                    found
                    and tag.startswith(manifests.PREFIX)
                    and tag not in {*found.facts, *manifests.UNSIGNED_TAGS}
                ):
                    client.delete_model_version_tag(name, number, tag)
            self.apply(dataclasses.replace(entry, alias="", manifest=manifest), found, anchor_of(entry))
            done.append(f"put the tags of version {number} back")
        for number in there:
            unknown = {} if record.manifests.get(number) else tags_of(there[number])
            if MANIFEST_TAG in unknown or (ANCHOR_TAG in unknown and number not in latest):
                for tag in unknown.keys() & manifests.UNSIGNED_TAGS:
                    client.delete_model_version_tag(name, number, tag)
                done.append(f"took evidence that the record does not know from version {number}")
        gone = []
        for alias in {**now, **record.aliases}:
            version = record.aliases.get(alias, "")
            if version and version not in there:
                gone.append(alias)
                done.append(f"took alias {alias} away: version {version} is gone")
            elif version != now.get(alias, ""):
                lease.check()
                self.apply(
                    dataclasses.replace(record.entries[-1], alias=alias, version="")
                    if not version
                    else dataclasses.replace(latest[version], alias=alias),
                    None,
                )
                done.append(f"put alias {alias} back to {f'version {version}' if version else 'nothing'}")
        return gone

    def _restart_record(self, lease: Lease, record: Record, versions: Any, why: str, done: list[str]) -> None:
        """A new first entry, and an entry for each alias and each version whose manifest is valid."""
        client, name = self._client, self._name
        kept: dict[str, Manifest] = {}
        for version in versions:
            number = str(version.version)
            digest = record.manifests.get(number) or tags_of(version).get(MANIFEST_TAG, "")
            try:
                found = manifests.read_manifest(client, record.run, digest, self._keys) if digest else None
            except UntrustedError:
                found = None
            if found is not None and not (
                manifests.compare_version(found, version) or manifests.compare_documents(client, found)
            ):
                kept[number] = found
                continue
            for tag in (MANIFEST_TAG, ANCHOR_TAG):
                if tag in tags_of(version):
                    client.delete_model_version_tag(name, number, tag)
            done.append(f"version {number} has no valid evidence; look at it, then sign it with --sign")
        problems = "; ".join(record.problems) or "; ".join(done)
        if record_run.read_head(client, name, record.run, self._keys)[1]:
            client.delete_registered_model_tag(name, RUN_TAG)
            record_run.leave_run(client, record.run)
            record = dataclasses.replace(record, run=record_run.ensure_run(client, name, self._settings))
        who = self._settings.user
        lease.check()
        self._remove_unproven(record)
        self.write(
            lease,
            record,
            Change("repair", "", f"{why} [the record did not hold: {problems}]", who),
            root=True,
        )
        done.append("began the record anew; what was before is not proven")
        aliases = {
            str(alias): str(version) for alias, version in dict(find_model(client, name).aliases).items()
        }
        stated = [*aliases.items(), *(("", number) for number in kept if number not in aliases.values())]
        for alias, number in stated:
            change = Change("repair", number, "as it was found", who, alias, manifest=kept.get(number))
            self.write(lease, self.read(lease), change)

    def _remove_unproven(self, record: Record) -> None:
        """Tags of entries that cannot be read, do not fit their key, or have the index of the next entry."""
        for key, text in tags_of(find_model(self._client, self._name)).items():
            if key.startswith(history.TAG) and not history.is_valid_entry(key, text, record):
                self._client.delete_registered_model_tag(self._name, key)


def repair(client: mlflow.MlflowClient, name: str, settings: Settings, why: str) -> list[str]:
    """Repair the record of a model, and record that. Returns what was done. Raises the same as `append`."""
    find_model(client, name)
    writer = _Writer(client, name, settings)
    for _ in range(_TRIES):
        with writer.hold() as lease:
            try:
                return writer.repair(lease, why)
            except LeaseLostError:
                continue
    raise StorageError(f"Others took over the history of {name!r} {_TRIES} times; try again")


def _last_head(record: Record) -> Head:
    """The end of an unsigned record, in the form of a head."""
    last = record.entries[-1] if record.entries else None
    return Head("", last.index, last.digest, 0) if last else Head("", 0, "", 0)


def _cut(why: str) -> str:
    """The reason, cut so that it fits a tag with any characters."""
    while len(json.dumps(why)) > _LONGEST:
        why = why[: -max(1, (len(json.dumps(why)) - _LONGEST) // 6)]
    return why
