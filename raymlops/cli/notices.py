"""`raymlops cluster leave` and `heed`: a node that is about to be taken away says so to its cluster."""

import dataclasses

import click

from raymlops.settings import Settings

_ADDRESS = click.option("--address", help="The cluster; default RAY_ADDRESS, or the one of this machine.")


@click.command()
@click.option("--seconds", default=25.0, show_default=True, help="Until this node is gone.")
@_ADDRESS
def leave(seconds: float, address: str | None) -> None:
    """Say that this node will be gone soon: trainings on it save at once, and nothing new is placed here.

    `heed` calls it on clouds, and Ray does the same where it is ended by SIGTERM, as pods are.
    """
    import ray

    from raymlops.clusters import connection, notices

    settings = Settings.from_env()
    connection.join(dataclasses.replace(settings, ray_address=address or settings.ray_address), "find")
    context = ray.get_runtime_context()
    notices.drain_node(context.gcs_address, context.get_node_id(), seconds)
    click.echo(f"Node {context.get_node_id()[:8]} leaves in {seconds:g} s")


@click.command()
@_ADDRESS
@click.pass_context
def heed(context: click.Context, address: str | None) -> None:
    """Wait on a spot node for its cloud's notice (AWS, Azure, GCP), then `leave`.

    
    raymlops cluster heed &                (after `ray start`, on each spot node)
    """
    from raymlops.clusters import notices

    context.invoke(leave, seconds=notices.watch(), address=address)
