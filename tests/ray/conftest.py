"""One small Ray cluster for all tests below this folder."""

import logging
import pathlib
import warnings
from collections.abc import Iterator

import pytest

from tests.serving_process import separate_ports


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A private cluster of four logical CPUs; gives their number. It meets no other cluster of this machine."""
    import ray

    from raymlops.data import sources
    from raymlops.settings import apply_process_defaults

    apply_process_defaults()
    # Unix sockets lie under this folder, and their paths may have 107 characters at most.
    folder = pathlib.Path(tmp_path_factory.getbasetemp()).parent / "ray"
    options = {"_temp_dir": str(folder)} if len(str(folder)) < 40 else {}
    for attempt in range(4):
        try:
            _start(options)
            break
        except Exception:  # Ray gives a node 30 seconds to start, which a busy machine may exceed
            ray.shutdown()
            if attempt == 3:
                raise
    sources.configure()
    yield 4
    ray.shutdown()


def _start(options: dict[str, str]) -> None:
    import ray

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # of Ray's own start
        for name, port in separate_ports().items():  # of a Serve that a test starts on it
            patch.setenv(name, port)
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=256 * 2**20,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **options,
        )
