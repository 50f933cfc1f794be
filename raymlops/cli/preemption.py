"""`raymlops cluster drain` and `watch-preemption`: tell the cluster that a node is about to be taken away."""

import dataclasses

import click

from raymlops.settings import Settings

_ADDRESS = click.option("--address", help="The cluster; default RAY_ADDRESS, or the one of this machine.")


@click.command()
@click.option("--seconds", default=25.0, show_default=True, help="Seconds until this node is gone.")
@_ADDRESS
def drain(seconds: float, address: str | None) -> None:
    """Tell the cluster that this node will be gone soon: trainings on it save at once, and nothing new is placed
    here.

    `watch-preemption` does this on cloud machines; Ray does the same when it is ended by SIGTERM, as in pods.
    """
    import ray

    from raymlops.clusters import connection, preemption

    settings = Settings.from_env()
    connection.join(dataclasses.replace(settings, ray_address=address or settings.ray_address), "find")
    context = ray.get_runtime_context()
    preemption.drain_node(context.gcs_address, context.get_node_id(), seconds)
    click.echo(f"Node {context.get_node_id()[:8]} leaves in {seconds:g} s")


@click.command("watch-preemption")
@_ADDRESS
@click.pass_context
def watch_preemption(context: click.Context, address: str | None) -> None:
    """Wait on a spot node for its cloud's preemption notice (AWS, Azure, GCP), then `drain` this node.

    raymlops cluster watch-preemption &    (after `ray start`, on each spot node)
    """
    from raymlops.clusters import preemption

    context.invoke(drain, seconds=preemption.watch(), address=address)
