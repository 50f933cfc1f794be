"""Joins the cluster that the settings name, or starts one on this machine; sets what every driver of
ours relies on."""

import logging
import warnings

import ray

from raymlops.clusters import loopback
from raymlops.data import sources
from raymlops.errors import ResourceError
from raymlops.settings import Settings, apply_process_defaults


def join_cluster(settings: Settings) -> None:
    """Connect, once a process. Raises ResourceError when the address does not answer."""
    if not ray.is_initialized():
        # Uploading the working directory is the submitter's decision; workers here import the same
        # installation.
        options = {"logging_level": logging.ERROR, "log_to_driver": False}
        apply_process_defaults()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if settings.ray_address:
                    loopback.adapt_to(settings.ray_address)
                    ray.init(address=settings.ray_address, **options)
                else:
                    loopback.prepare_start()
                    ray.init(address="local", include_dashboard=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = settings.ray_address or "this machine"
            raise ResourceError(
                f"No Ray cluster at {where}: {' '.join(str(error).split())[:200]}; check "
                "RAY_ADDRESS, or unset it to "
                "start one here"
            ) from None
    sources.configure()
