"""A folder of models behind one application: each is known from the start or soon after it was added, and loaded on
first use. Models that cannot be served are listed with the reason. Does not import Ray."""

import asyncio
import concurrent.futures
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping

from raymlops.errors import (
    ArtifactError,
    NotFoundError,
    RaymlopsError,
    unknown_name,
)
from raymlops.models.model_trial import TRIALS
from raymlops.models.process_mac import has_code
from raymlops.models.session import Session
from raymlops.runtime.model_files import open_folder
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.endpoints.lazy_endpoint import LazyEndpoint
from raymlops.serving.endpoints.model_cache import ModelCache
from raymlops.serving.endpoints.model_folder import (
    OPTIONS,
    RELOAD,
    Entry,
    Examiner,
    FolderModel,
    Opener,
    read_entries,
)
from raymlops.serving.endpoints.statistics import Statistics, Tree
from raymlops.specs.serving import ManyModels

LOG = logging.getLogger("raymlops.serving")
PATIENCE_S = 60.0
"""Longest scan of the folder, including reading new files."""
EXAMINED_S = 10.0
"""Time after which a scan leaves further new files to the next one."""
LOOKED_S = 1.0
"""Time for which the index relies on the last scan of the folder."""
DISAGREED_S = 60.0
"""Time after which a file that the other replicas serve, but that is missing or unreadable here, is looked for
again."""
_MOST_TOLD = 20
"""Models that cannot be served, whose reasons are told with the counts."""


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """What a replica knows of a name in the folder: the model that it serves, or the reason why it serves none; with
    a model, the reason is why the present file is not used."""

    entry: Entry
    found: FolderModel | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Changes:
    """The result of a scan of the folder."""

    examined: Mapping[str, tuple[Entry, FolderModel | str]]
    gone: Collection[str]
    notices: Collection[str] = ()


class LazyModels:
    """The hosted models of a folder, and the repository that the protocol loads and unloads.

    A model answers with the bytes that were found first. An added file is a new model; a removed one is no longer
    served; a replaced one is used once it is loaded by name, or at the next deployment.
    """

    def __init__(
        self, spec: ManyModels, queue: int = 128, memory: int = 0, hosted: dict[str, Hosted] | None = None
    ) -> None:
        """`hosted` are the models of the application, to which those of the folder are added. Raises NotFoundError if
        there is no such folder, StorageError."""
        self.hosted: dict[str, Hosted] = {} if hosted is None else hosted
        self.unavailable: dict[str, str] = {}
        """Name -> why it cannot be served."""
        self._taken = frozenset(self.hosted)
        self._deadline_s = spec.deadline_s
        self._files = open_folder(spec.folder)
        self._known: dict[str, KnownModel] = {}
        self._notices: set[str] = set()
        self._faults: dict[str, str] = {}
        """Key of a model -> why it could not be loaded the last time."""
        self._disagreed: dict[str, tuple[Entry | None, str, float]] = {}
        """Name -> its file here, the digest that the others serve and this file does not have, and when to look
        again."""
        self._examiner = Examiner(self._files, int(spec.memory_mb * 1e6))
        options = dataclasses.replace(OPTIONS, memory=memory)
        self._opener = Opener({}, options, TRIALS if spec.trial else None)
        self._threads = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="many")
        self._looking = asyncio.Lock()
        self.looked = time.monotonic()
        """Time of the last scan."""
        self.cache: ModelCache[Session] = ModelCache(
            self._open,
            {},
            int(spec.memory_mb * 1e6),
            threads=spec.loads,
            patience_s=spec.patience_s,
            label=_name_of,
            may_block=self._files.is_near,
        )
        self.version = 0
        """Version of the list of closed models; an older list that was on its way when this replica changed it is
        ignored."""
        self.closed: set[str] = set()
        """Names that were unloaded explicitly; the same in all replicas, within the time between two exchanges."""
        self._apply(self._find_changes({}, is_first=True))

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the file of every served model."""
        return {name: known.found.digest for name, known in self._known.items() if known.found is not None}

    async def refresh(self) -> None:
        """Add or remove models whose files were added or removed, unless the folder was just scanned. If it cannot be
        scanned, the models found before are served."""
        if time.monotonic() - self.looked < LOOKED_S:
            return
        try:
            async with asyncio.timeout(PATIENCE_S), self._looking:
                if time.monotonic() - self.looked < LOOKED_S:  # by another task, which this one waited for
                    return
                self.looked = time.monotonic()
                self._apply(await asyncio.to_thread(self._find_changes, dict(self._known)))
        except (RaymlopsError, OSError) as error:  # a TimeoutError is an OSError
            told = str(error) or f"it did not answer within {PATIENCE_S:g} s"
            LOG.error("the folder of models could not be scanned; those found so far are served: %s", told)

    async def take(self, name: str) -> str:
        """Serve the present file of this name; returns its sha256.

        Raises NotFoundError if there is none, ArtifactError if it cannot be served: the model served before keeps
        answering.
        """
        await self._take({name: ""})
        known = self._known.get(name)
        if known is None:
            raise NotFoundError(unknown_name("model", name, self._known))
        if known.reason or known.found is None:
            before = "; the model that was found before keeps answering" if known.found is not None else ""
            raise ArtifactError(f"Model {name!r} cannot be loaded: {known.reason}{before}")
        return known.found.digest

    async def load(self, name: str) -> None:
        """Like `take` and `open`."""
        await self.take(name)
        await self.open(name)

    async def open(self, name: str) -> None:
        """Load the model into memory, and open it to requests. Raises what `check` and loading raise."""
        self.check(name)
        self.closed.discard(name)
        self.hosted[name].ready = True
        await self.cache.load(self._key(name))

    async def unload(self, name: str) -> None:
        self.check(name)
        self.closed.add(name)
        self.hosted[name].ready = False
        self.cache.unload(self._key(name))

    def follow(self, version: int, closed: Iterable[str]) -> None:
        """Adopt another replica's list of unloaded and reopened models, unless this one's is newer."""
        if version < self.version:
            return
        self.version = version
        wanted = set(closed)
        served = self.digests.keys()
        for name in (wanted - self.closed) & served:
            self.hosted[name].ready = False
            self.cache.unload(self._key(name))
        for name in (self.closed - wanted) & served:
            self.hosted[name].ready = True
            self.cache.reopen(self._key(name))
        self.closed = wanted

    async def agree(self, digests: Mapping[str, str]) -> None:
        """Serve the files that all replicas agreed on, by their sha256; refuse a model whose file differs."""
        own = self.digests
        others = {name: digest for name, digest in digests.items() if own.get(name, "") != digest}
        self._disagreed = {name: told for name, told in self._disagreed.items() if name in others}
        others = {
            name: digest for name, digest in others.items() if not self._is_known_to_differ(name, digest)
        }
        if not others:
            return
        changes = await self._take(others)
        for name, digest in others.items():
            known = self._known.get(name)
            if known is not None and known.found is not None:
                if known.found.digest == digest:
                    continue
                self._withdraw(name)
                reason = f"its file is not the one that the other replicas serve; {RELOAD.format(name)}"
                self._set_known(name, KnownModel(known.entry, None, reason))
            _, found = changes.examined.get(name, (None, None))
            # A file with other bytes has them as long as its stamp is the same.
            is_final = known is not None and not isinstance(found, str)
            again = math.inf if is_final else time.monotonic() + DISAGREED_S
            self._disagreed[name] = known.entry if known is not None else None, digest, again

    def _is_known_to_differ(self, name: str, digest: str) -> bool:
        """Whether the present file of this name is known to have another digest."""
        known = self._known.get(name)
        entry, wanted, again = self._disagreed.get(name, (None, "", 0.0))
        return (known.entry if known else None, digest) == (entry, wanted) and time.monotonic() < again

    def to_tree(self) -> Tree:
        """The cache's counts, see `metrics.FAMILIES`."""
        count = self.cache.count
        counts = {
            "hits": count.hits,
            "loads": count.loads,
            "load_ns": int(1e9 * count.load_seconds),
            "evictions": count.evictions,
            "failures": count.failures,
        }
        return {
            "counts": counts,
            "now": {"many_bytes": self.cache.held, "unavailable": len(self.unavailable)},
            "told": {"unavailable": dict(itertools.islice(self.unavailable.items(), _MOST_TOLD))},
        }

    def check(self, name: str) -> str:
        """The same name. Raises NotFoundError unless there is such a model, ArtifactError if it cannot be served."""
        if name in self.unavailable:
            raise ArtifactError(f"Model {name!r} is unavailable: {self.unavailable[name]}")
        known = self._known.get(name)
        if known is None or known.found is None:
            raise NotFoundError(unknown_name("model", name, self._known))
        return name

    async def _take(self, digests: Mapping[str, str]) -> Changes:
        """Examine the present files of these names, and serve those that have the digest, or all if none is given."""
        async with self._looking:
            changes = await asyncio.to_thread(self._find_changes, dict(self._known), digests)
            self._apply(changes, digests)
            return changes

    def _find_changes(
        self,
        known: Mapping[str, KnownModel],
        wanted: Mapping[str, str] | None = None,
        *,
        is_first: bool = False,
    ) -> Changes:
        """What differs from what is known, for all names or those `wanted`, whose bytes are compared whatever their
        stamps say: a file may have been replaced twice within a second. Reads files, changes nothing."""
        ends = time.monotonic() + EXAMINED_S
        entries = read_entries(self._files.list())
        examined: dict[str, tuple[Entry, FolderModel | str]] = {}
        for name, entry in entries.models.items():
            before = known.get(name)
            if wanted is not None and name not in wanted:
                continue
            if before is not None and before.entry == entry and (wanted is None or self._is_same(before)):
                continue
            if wanted is None and not is_first:
                if time.monotonic() > ends:
                    break
                if not entry.file.is_settled:
                    continue  # it may still be written
            taken = "a model or graph of the application has this name; rename one"
            examined[name] = entry, taken if name in self._taken else self._examiner.examine(entry)
        gone = [name for name in known if name not in entries.models and (wanted is None or name in wanted)]
        return Changes(examined, gone, entries.notices)

    @staticmethod
    def _is_same(known: KnownModel) -> bool:
        """Whether a model is served, and its file still has the same bytes."""
        found = known.found
        if found is None or known.reason:
            return False
        try:
            data = found.files.read(found.path, found.size, found.size)
        except (RaymlopsError, OSError):
            return False  # examining it will report that
        return data is not None and has_code(data, found.code)

    def _apply(self, changes: Changes, wanted: Mapping[str, str] | None = None) -> None:
        """Serve what was found. Another file for a served model is used only if the model is `wanted`."""
        for notice in changes.notices:
            if notice not in self._notices:
                LOG.warning("%s", notice)
        self._notices = set(changes.notices)
        for name in changes.gone:
            self._withdraw(name)
            self._known.pop(name, None)
            self.unavailable.pop(name, None)
        for name, (entry, found) in changes.examined.items():
            before = self._known.get(name)
            served = before.found if before is not None else None
            if isinstance(found, str):
                self._set_known(name, KnownModel(entry, served, found))
            elif served is None or served.digest == found.digest or _is_wanted(name, found, wanted):
                self._serve(found)
                self._set_known(name, KnownModel(entry, found))
            else:
                reason = f"the file has changed since this replica started; {RELOAD.format(name)}"
                self._set_known(name, KnownModel(entry, served, reason))

    def _set_known(self, name: str, known: KnownModel) -> None:
        before = self._known.get(name)
        if known.reason and (before is None or before.reason != known.reason):
            LOG.error("model %r: %s", name, known.reason)
        self._known[name] = known
        if known.found is None:
            self.unavailable[name] = known.reason
        else:
            self.unavailable.pop(name, None)

    def _serve(self, found: FolderModel) -> None:
        """Answer with this file from now on; requests that use the previous one continue."""
        before = self._known.get(found.name)
        served = before.found if before is not None else None
        if served is not None and (served.key, served.path, served.version) == (
            found.key,
            found.path,
            found.version,
        ):
            return
        old = self.hosted.get(found.name)
        if served is not None:
            self._withdraw(found.name)
        self._opener.add(found.key, found)
        self.cache.add(found.key, found.size)
        is_same = old is not None and old.statistics.version == found.version
        hosted = self.hosted[found.name] = self._host(found, old.statistics if old and is_same else None)
        if found.name in self.closed:
            hosted.ready = False
            self.cache.unload(found.key)

    def _withdraw(self, name: str) -> None:
        """Stop serving this model; requests that use it continue."""
        known = self._known.get(name)
        if known is None or known.found is None:
            return
        hosted, key = self.hosted.pop(name), known.found.key
        if isinstance(hosted.endpoint, LazyEndpoint):
            hosted.endpoint.is_withdrawn = True
        self.cache.forget(key)
        self._opener.remove(key)
        self._faults.pop(key, None)

    def _open(self, key: str) -> Session:
        """In a thread or on the event loop, as the cache chooses."""
        try:
            session = self._opener.open(key)
        except RaymlopsError as error:
            self._faults[key] = str(error)
            raise
        self._faults.pop(key, None)
        return session

    def _key(self, name: str) -> str:
        found = self._known[name].found
        assert found is not None  # `check` was called before
        return found.key

    def _reason(self, name: str) -> str:
        """The index's note on a served model."""
        known = self._known[name]
        if known.found is None:
            return known.reason
        if name in self.closed:
            return f"it was unloaded; POST /v2/repository/models/{name}/load"
        told = known.reason or self._faults.get(known.found.key, "")
        waits = "it is not in memory; the next request loads it"
        return told or ("" if self.cache.state(known.found.key) == "READY" else waits)

    def _host(self, found: FolderModel, statistics: Statistics | None = None) -> Hosted:
        """`statistics` are those of the previous file, which continue."""
        statistics = statistics or Statistics(found.name, found.version)
        statistics.sharing = found.independence.told
        joins = bool(found.independence)
        endpoint = LazyEndpoint(found, self.cache, self._threads, statistics, joins, self._deadline_s)
        return Hosted(
            found.name,
            endpoint,
            statistics,
            found.columns,
            loaded=lambda: self.cache.state(found.key) == "READY",
            reason=lambda: self._reason(found.name),
            explanation=found.header.contract.get("explanation", {}),
        )


def _name_of(key: str) -> str:
    """A model's name for its callers."""
    return key.partition("@")[0]


def _is_wanted(name: str, found: FolderModel, wanted: Mapping[str, str] | None) -> bool:
    """Whether a file is to be used: any file, or the one with a digest."""
    return wanted is not None and wanted.get(name) in ("", found.digest)
