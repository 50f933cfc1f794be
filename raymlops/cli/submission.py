"""`raymlops submit`: checks a job here, sends it to a cluster, follows its log, and exits with its exit code."""

import pathlib
import shlex
import sys
from typing import Any

import click

from raymlops.settings import Settings, choose_authentication, export

_WITH_SPEC = ("check", "train", "search")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("verb", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--address", help="The cluster's job server; default RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265."
)
@click.option("--no-wait", is_flag=True, help="Exit once the cluster has accepted the job, and print its id.")
@click.option(
    "--follow", metavar="ID", help="Follow a job that was sent before, and exit with its exit code."
)
@click.option("--working-dir", default=".", type=click.Path(), help="Folder to send; it contains jobs/.")
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="An environment variable of the job; never a secret.",
)
@click.option(
    "--install", is_flag=True, help="Install the pinned packages for this job, if the cluster lacks them."
)
@click.option(
    "--send", "sent", multiple=True, metavar="FILE", help="Send this file although it looks like a secret."
)
@click.option(
    "--config",
    default="cluster.yaml",
    help="Cluster configuration whose node types --autoscaling may count on.",
)
def submit(verb: str | None, arguments: tuple[str, ...], **options: Any) -> None:
    """Run VERB with its ARGUMENTS as a job of a cluster.

    Problems of the spec, of the size of the files and of the demand are reported before anything is sent.

    \b
    raymlops submit search jobs/specs/digits.yaml --set search.trials=40
    raymlops submit --no-wait search jobs/specs/flights.yaml --autoscaling
    """
    export(choose_authentication())  # before Ray is imported, which reads it only once
    from raymlops.clusters import packaging, submission

    address = options["address"] or Settings.from_env().job_address
    if options["follow"]:
        sys.exit(_follow(submission.connect(address), options["follow"]))
    if not verb:
        raise click.UsageError("Missing VERB, such as search; or give --follow ID")
    root = pathlib.Path(options["working_dir"]).resolve()
    submission.require_verb(root, verb)
    job = submission.Job(
        verb,
        arguments,
        {**_trusted_keys(), **_to_variables(options["variables"])},
        submission.read_requirements(root) if options["install"] else (),
    )
    submission.require_no_secrets(job)
    _require_kept_output(job)
    package = packaging.list_files(root, options["sent"])
    packaging.require_size(package)
    _report_excluded(package)
    demand = _check_spec(job, package) if verb in _WITH_SPEC else None
    client = submission.connect(address)
    if verb != "check":
        _check_cluster(job, demand, address, root / options["config"])
    identity, spent = submission.send(client, package, job)
    click.echo(
        f"Job {identity}: {len(package.files)} files, {packaging.to_mib(package.size)}, packed in "
        f"{spent['pack']:.1f} s, "
        f"sent in {spent['send']:.1f} s",
        err=True,
    )
    if options["no_wait"]:
        click.echo(identity)
        return
    sys.exit(_follow(client, identity))


def _require_kept_output(job: Any) -> None:
    """Raises SpecError for files that would be written into the job's copy of the working directory, and lost."""
    from raymlops import locations
    from raymlops.cli.capture import replay
    from raymlops.cli.init import init
    from raymlops.cli.prediction import predict
    from raymlops.errors import SpecError

    replays = (job.verb, *job.arguments)[:2] == ("capture", "replay")
    arguments = list(job.arguments[1:] if replays else job.arguments)
    command = replay if replays else {"init": init, "predict": predict}.get(job.verb)
    if command is None or {"-h", "--help"} & set(job.arguments):
        return
    output = command.make_context(job.verb, arguments).params["output"]
    if output == "-" or (replays and not output):
        return
    if output and (locations.is_remote(output) or pathlib.Path(output).is_absolute()):
        return
    screen = ", or --output - to print the spec here" if job.verb == "init" else ""
    raise SpecError(
        f"{job.verb} would write {output or 'its spec'!r} into the job's temporary copy of the working directory; give "
        f"--output an absolute path on storage that you share with the cluster{screen}"
    )


def _report_excluded(package: Any) -> None:
    """Checked before anything is sent: the job may lack one of them."""
    if not package.why:
        return
    from raymlops.clusters import mounts

    click.echo(mounts.describe(dict(package.why)), err=True)


def _trusted_keys() -> dict[str, str]:
    """The public keys that are trusted here are trusted in the job too, beside those that the cluster trusts."""
    from raymlops import attestation

    lines = attestation.to_lines(attestation.load_trusted_keys(Settings.from_env()))
    # Ray replaces it by the node's own value, or by nothing.
    return {"RAYMLOPS_TRUSTED_KEYS": "${RAYMLOPS_TRUSTED_KEYS}," + lines} if lines else {}


def _to_variables(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--env {text!r} is not of the form NAME=VALUE")
        found[name] = value
    return found


def _check_spec(job: Any, package: Any) -> Any:
    """Parse the verb's arguments and its spec as the job will; returns the demand of one trial."""
    from raymlops.cli.training import check as check_verb
    from raymlops.cli.training import read_spec, search, train
    from raymlops.errors import NotFoundError

    command = {"check": check_verb, "train": train, "search": search}[job.verb]
    found = command.make_context(job.verb, list(job.arguments)).params
    path = package.root / found["spec"]
    spec = read_spec(str(path), found["overrides"])
    if pathlib.Path(found["spec"]).as_posix() not in package.files:
        raise NotFoundError(
            f"The spec {found['spec']} is not among the files that are sent; give its path inside {package.root}, and "
            "see that .gitignore and .rayignore do not name it, and that it is not held back as a secret (--send)"
        )
    return spec.training.demand


def _check_cluster(job: Any, demand: Any, address: str, file: pathlib.Path) -> None:
    """Check that the job's results can be found later, and that its demand can be met."""
    from raymlops.clusters import checks, configuration, storage, submission
    from raymlops.errors import StorageError

    nodes = submission.read_kinds(address)
    config = configuration.read_cluster(file) if file.is_file() else None
    autoscaling = "--autoscaling" in job.arguments
    if kept := job.variables.get("RAYMLOPS_STORAGE"):
        home = str(pathlib.Path.home())
        storage.require_storage(kept, [node.address for node in nodes], home=home)
    elif autoscaling and config is not None:
        for finding in checks.check_storage(config):
            raise StorageError(f"{file.name}: {finding.what}, so that {finding.why}; {finding.fix}")
    if demand is not None:
        _require_room(demand, autoscaling, nodes, config, file)


def _require_room(demand: Any, autoscaling: bool, nodes: Any, config: Any, file: pathlib.Path) -> None:
    from raymlops.clusters import capacity
    from raymlops.errors import ResourceError

    shortage = capacity.explain_shortage(demand, nodes)
    if shortage is None:
        return
    grown = None if config is None else capacity.explain_shortage(demand, capacity.kinds_of(config))
    if not autoscaling:
        hint = "" if grown or config is None else f"; {file.name} may grow to it: add --autoscaling"
        raise ResourceError(
            f"On the present cluster, {shortage}{hint or '; lower training.workers, or join a larger one'}"
        )
    if grown:
        raise ResourceError(
            f"Even with all the nodes that {file.name} allows, {grown}; lower the demand, or add a node type"
        )


def _follow(client: Any, identity: str) -> int:
    from raymlops.clusters import submission

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        code = submission.follow(client, identity, write)
    except KeyboardInterrupt:
        click.echo(
            f"\nThe job continues. raymlops submit --follow {shlex.quote(identity)}, or ray job stop "
            f"{shlex.quote(identity)}",
            err=True,
        )
        return 130
    click.echo(f"Job {identity} {'succeeded' if code == 0 else f'ended with exit code {code}'}", err=True)
    return code
