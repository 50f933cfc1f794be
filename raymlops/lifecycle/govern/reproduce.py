"""Trains a version again from its record, and compares the two. Registers nothing."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from raymlops.errors import DataError, NotFoundError
from raymlops.lifecycle.cluster import join_cluster
from raymlops.lifecycle.govern import environments, provenance, version_record
from raymlops.lifecycle.govern.evaluation_rows import read_rows
from raymlops.lifecycle.train.develop import Request, develop_model
from raymlops.settings import Settings
from raymlops.specs.dataset import TableSpec
from raymlops.specs.experiment import to_one_trial, with_parameters
from raymlops.tracking import registry, store
from raymlops.tracking.registry import ModelVersion
from raymlops.training.replay import Replayed


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Comparison of the second training with the first."""

    uri: str
    same_bytes: bool
    exact: bool
    """Whether equal bytes are to be expected: one worker, on a CPU, with the same packages and code."""
    metrics: dict[str, tuple[float, float]]
    """Metric -> then and now."""
    packages: tuple[str, ...]
    """Packages whose versions differ from those of the record."""
    commit: tuple[str, str]

    @property
    def largest(self) -> float:
        """Largest absolute difference of a metric."""
        return max((abs(then - now) for then, now in self.metrics.values()), default=0.0)

    @property
    def agrees(self) -> bool:
        """Equal bytes and metrics if that is to be expected; else metrics within 0.01."""
        return (self.same_bytes and self.largest < 1e-9) if self.exact else self.largest <= 0.01


def reproduce_version(
    uri: str, settings: Settings, tell: Callable[[str], None], *, trusted: bool = False
) -> Reproduction:
    """Check environment and data against the record, train the version's trial again, and compare.

    Raises NotFoundError for a version without a record, ForbiddenError if the record is not `trusted` and names code,
    DataError if the data have changed.
    """
    client = store.connect(settings)
    version = registry.resolve(uri, settings)
    trusted = trusted or settings.trusted_record == version.uri
    spec = version_record.read_spec(client, version, trusted=trusted, tell=tell)
    if "raymlops.parameters" not in version.tags:
        raise NotFoundError(f"{version.uri} does not say with which parameters it was trained")
    packages = compare_locks(
        version_record.read_text(client, version, "requirements.lock.txt") or "",
        provenance.environment_lock(),
    )
    differ = (
        f"{len(packages)} packages differ; `--environment rebuild` builds the recorded environment, and trains "
        "in it"
    )
    tell(f"Environment: {differ if packages else 'every package as recorded'}")
    join_cluster(settings, teams=spec.training.workers > 1)
    found = read_rows(spec).identity
    assert found is not None
    recorded = version.tags.get("raymlops.fingerprint", "")
    if recorded and not found.matches(recorded):
        raise DataError(
            f"The data of {version.uri} had fingerprint {recorded}, and now have {found.digest}; give the same data "
            "to reproduce it"
        )
    tell(f"Data: fingerprint {recorded or found.digest} as recorded")
    replayed, student = _read_members(version)
    parameters = version_record.read_tag(version, "raymlops.parameters")
    again = spec if replayed else to_one_trial(with_parameters(spec, parameters))
    name = f"reproduction-of-{version.name}-{version.version}-{time.strftime('%Y%m%d-%H%M%S')}"
    request = Request(
        why=f"reproduces {version.uri}", name=name, register=False, replayed=replayed, student=student
    )
    outcome = develop_model(again, settings, request, tell=tell)
    then = version_record.read_tag(version, "raymlops.test")
    now = outcome.proof.metrics
    training = again.training
    commit = (version.tags.get("raymlops.commit", "unknown"), provenance.git_commit())
    return Reproduction(
        uri=version.uri,
        same_bytes=outcome.digest == version.digest,
        exact=training.workers == 1
        and not training.use_gpu
        and not packages
        and commit[0] == commit[1]
        and spec.search.scheduler != "pbt",
        metrics={name: (float(then[name]), float(now[name])) for name in then if name in now},
        packages=packages,
        commit=commit,
    )


def _read_members(version: ModelVersion) -> tuple[tuple[Replayed, ...], dict[str, Any] | None]:
    """The trials of a winner of several models, and the parameters of the network that learned from them, if one did;
    empty for one of a single model of the training rows, whose parameters say all."""
    held = version_record.read_tag(version, "raymlops.members")
    members = tuple(Replayed.from_json(one) for one in held.get("members", ()))
    if held.get("teacher"):
        return tuple(Replayed.from_json(one) for one in held["teacher"]), dict(members[0].parameters)
    rebuilt = sum(one.models for one in members) > 1 or any(one.whole for one in members)
    return (members, None) if rebuilt else ((), None)


def reproduce_rebuilt(
    uri: str, settings: Settings, tell: Callable[[str], None], *, trusted: bool = False
) -> int:
    """The same in an environment with the recorded packages and code, on this machine. Returns the exit code.

    Raises NotFoundError for a version without a record, a missing interpreter or commit; ForbiddenError if the record
    is not `trusted`, SpecError for a lock that names anything but packages and versions.
    """
    client = store.connect(settings)
    version = registry.resolve(uri, settings)
    lock = version_record.read_text(client, version, "requirements.lock.txt")
    if lock is None:
        raise NotFoundError(f"{version.uri} has no lock of its packages: it was registered from a file")
    commit = version.tags.get("raymlops.commit", "unknown")
    dataset = version_record.read_spec(client, version, trusted=trusted, tell=tell).dataset
    packages = environments.read_lock(lock)
    code = (
        f"packages: {', '.join(map(str, packages))}",
        f"the code of commit {environments.read_commit(commit)}",
    )
    signed = version_record.is_signed(version, "requirements.lock.txt", lock)
    version_record.require_trust(version, code, trusted or signed, tell)
    environment = environments.build_environment(lock, commit, settings.home / "environments", tell)
    environment.link(path for table in dataset.tables for path in _paths(table))
    tell(f"Training in {environment.python.parents[2]}")
    # Not as an option: the recorded code may be older than the option.
    return environment.run(
        ["reproduce", version.uri], settings.home, {"RAYMLOPS_TRUSTED_RECORD": version.uri}
    )


def _paths(table: TableSpec) -> tuple[str, ...]:
    held = (table.path,) if isinstance(table.path, str) else table.path or ()
    return tuple(path for path in held if "://" not in path)


def compare_locks(then: str, now: str) -> tuple[str, ...]:
    """`name: version then -> version now` for each package that differs, and for the interpreter."""
    if not then:
        return ("no lock was recorded",)
    held, present = (_read_lock(text) for text in (then, now))
    return tuple(
        f"{name}: {held.get(name, 'absent')} -> {present.get(name, 'absent')}"
        for name in sorted({*held, *present})
        if held.get(name) != present.get(name)
    )


def _read_lock(text: str) -> dict[str, str]:
    versions = {}
    for line in text.splitlines():
        name, equals, version = line.partition("==")
        if equals and name != "raymlops":  # its commit is compared
            versions[name.strip().lower()] = version.strip()
        elif line.startswith("# Python"):
            versions["python"] = line.removeprefix("# Python").strip()
    return versions
