"""Starts serving and deployments, for the command line and for notebooks: sets the environment variables that Ray and
Serve read when they start, and so imports them late. The work itself is in local_serve.py, rollout.py, restore.py and
traffic.py."""

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from raymlops.errors import SpecError
from raymlops.serving import serve_internals
from raymlops.serving.deploy import conflicts
from raymlops.serving.fastpath import ray_serve_env
from raymlops.serving.haproxy import wrapper
from raymlops.settings import Settings, choose_authentication, export, read_environment
from raymlops.specs.serving import ServingSpec

if TYPE_CHECKING:
    from raymlops.serving.actors.operation_rounds import Outcome
    from raymlops.serving.deploy.local_serve import Served

Tell = Callable[[str], Any]


def set_environment(
    settings: Settings,
    spec: ServingSpec | None = None,
    *,
    plain: bool = False,
    own: bool = True,
    tell: Tell = lambda line: None,
) -> None:
    """Apply the fast settings of Serve, for a cluster that is about to be started; with `own`, by this process for
    itself.

    If Ray already runs in this process, its workers keep the environment with which they were started, and nothing is
    changed: Serve uses its default settings.
    """
    export(choose_authentication())
    if _has_started():
        if not plain and "RAY_SERVE_ENABLE_HA_PROXY" not in read_environment():
            tell(
                "Ray was started before without our settings for serving: Serve uses its default settings, "
                "which are slower"
            )
        return
    affine = spec is not None and spec.many is not None
    buffer = {} if spec is None else {"buffer_kb": spec.limits.proxy_buffer_kb}
    export(ray_serve_env.choose_environment(plain, affine=affine, home=settings.home, **buffer))
    if own:
        if settings.ray_address is None:
            export(conflicts.choose_inner_ports())
        # Replicas take a client's address only from a proxy that shows this secret.
        export({wrapper.TOKEN_VARIABLE: secrets.token_urlsafe(32)})


def _has_started() -> bool:
    """Whether it is too late: Serve reads its variables at import, and Ray's workers have those of its start."""
    ray = sys.modules.get("ray")
    return serve_internals.has_read_environment() or (ray is not None and ray.is_initialized())


def run(spec: ServingSpec, settings: Settings, *, plain: bool, once: bool, key: str, report: Tell) -> None:
    """Serve in this process until a signal, or with `once` until each model has answered: see `local_serve.run`."""
    set_environment(settings, spec, plain=plain)
    from raymlops.serving.deploy import local_serve

    local_serve.run(spec, settings, once=once, key=key, report=report)


@contextlib.contextmanager
def serving(
    spec: ServingSpec, settings: Settings, *, plain: bool = False, tell: Tell = lambda line: None
) -> Iterator["Served"]:
    """Serve as long as the context lasts: see `local_serve.serving`."""
    set_environment(settings, spec, plain=plain, tell=tell)
    from raymlops.serving.deploy import local_serve

    with local_serve.serving(spec, settings, report=tell) as served:
        yield served


def make_config(spec: ServingSpec, settings: Settings) -> dict[str, Any]:
    """The application as it would be deployed, with pinned versions, and its models tried on this machine. Raises
    ForbiddenError if other machines could reach it without keys, NotFoundError, ArtifactError, SpecError."""
    from raymlops.runtime import sources
    from raymlops.serving.deploy import history, spec_trial
    from raymlops.serving.proxy import exposure

    exposure.require_keys(spec)
    pinned = sources.pin(spec, settings)
    spec_trial.try_models(pinned, settings)
    return history.make_config(pinned, settings)


def deploy(
    spec: ServingSpec,
    settings: Settings,
    *,
    plain: bool = False,
    timeout_s: float = 300.0,
    report: Tell = print,
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Deploy an application on the cluster of the settings, replacing replicas one by one; returns its config.

    Raises the same as `make_config`, and ResourceError if it does not become healthy in `timeout_s` seconds; the
    previous deployment is then restored. `report` gets the progress of the deployment, `tell` further notices.
    """
    set_environment(settings, spec, plain=plain, own=False, tell=tell)
    from raymlops.serving.deploy import client, history, rollout

    past = history.History(settings, spec.name)
    config = make_config(spec, settings)
    client.connect(settings, tell=tell)
    client.require_place(spec, config)
    client.start_serve(spec)
    for line in conflicts.describe_shared_models(config, client.running_configs()):
        tell(line)
    return rollout.roll_out(config, past, timeout_s, report=report)


def roll_back(
    spec: ServingSpec,
    settings: Settings,
    *,
    plain: bool = False,
    timeout_s: float = 300.0,
    trusted: bool = False,
    report: Tell = print,
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Deploy the config before the present one; returns it. Raises NotFoundError if there is none, UntrustedError if
    no trusted key signed it, unless it is `trusted`, and the same as `deploy`."""
    set_environment(settings, spec, plain=plain, own=False, tell=tell)
    from raymlops.serving.deploy import client, history, rollout

    past = history.History(settings, spec.name, trusted=trusted)
    client.connect(settings, tell=tell)
    client.start_serve(spec)
    return rollout.roll_back(past, timeout_s, trust=trusted, report=report)


def read_previous(spec: ServingSpec, settings: Settings, *, trusted: bool = False) -> dict[str, Any]:
    """The config that `roll_back` would deploy. Raises NotFoundError, UntrustedError."""
    from raymlops.serving.deploy import history

    return history.History(settings, spec.name, trusted=trusted).previous()


def remove(spec: ServingSpec, settings: Settings, tell: Tell = lambda line: None) -> None:
    """Remove an application, after answering its requests in flight; a restarted head does not serve it again. Raises
    NotFoundError."""
    set_environment(settings, spec, own=False)
    from raymlops.serving.deploy import restore

    restore.remove(settings, spec.name, spec.drain_s, tell)


def check_operations(application: str, settings: Settings, tell: Tell = lambda line: None) -> "Outcome":
    """One round of operational checks: see `operation_checks.check_operations`."""
    set_environment(settings, own=False, tell=tell)
    from raymlops.serving.deploy import operation_checks

    return operation_checks.check_operations(settings, application)


def read_shares(texts: tuple[str, ...]) -> dict[str, str]:
    """`branch=share`, as typed -> branch to share. Raises SpecError."""
    wanted: dict[str, str] = {}
    for text in texts:
        branch, equals, share = text.partition("=")
        if not equals or not share:
            raise SpecError(f"{text!r} is not of the form branch=share, such as challenger=0.1")
        if branch in wanted:
            raise SpecError(f"Branch {branch!r} is named twice; give it one share")
        wanted[branch] = share
    return wanted


def change_weights(
    application: str, graph: str, split: str, shares: Mapping[str, str], settings: Settings
) -> dict[str, float]:
    """Change the shares of a split while it serves, and in the stored config that a restarted head would deploy;
    returns those of all branches. Raises NotFoundError, SpecError, UntrustedError."""
    export(choose_authentication())
    from raymlops.serving.deploy import client, history, traffic

    client.connect(settings)
    past = history.History(settings, application)
    newest = past.newest()  # first, since it may be refused
    changed = traffic.change_weights(application, graph, split, shares)
    if newest is not None:  # so that a restarted head uses these shares, not those of the file
        past.amend(traffic.set_in_config(newest, graph, split, changed))
    return changed
