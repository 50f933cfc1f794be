"""Scoring Parquet files on Ray Data against a bare ONNX Runtime loop over the same files; and the memory that it takes.

Both read Parquet, infer with the same model on all cores, and write Parquet. Start-up is apart: the rate is the slope
between a small and a large number of rows.

    python -m benchmarks.predict --rows 10000000
"""

import argparse
import os
import pathlib
import shutil
import tempfile
import threading
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import flights, rounds
from raymlops.features import table_to_batch
from raymlops.lifecycle.batch.predict import Scoring, predict_files
from raymlops.lifecycle.cluster import join_cluster
from raymlops.lifecycle.train.prepare import Prepared
from raymlops.models.session import SessionOptions, open_session
from raymlops.settings import Settings
from raymlops.specs.dataset import DatasetSpec


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    join_cluster(Settings.from_env())
    prepared = flights.prepare_flights()
    model = flights.export_model(prepared)
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        write_files(folder, prepared, options.rows)
        compare_rates(folder, model, prepared, options.rounds)
        compare_memory(folder, model)


def write_files(folder: pathlib.Path, prepared: Prepared, rows: int) -> None:
    """The flights' raw columns again and again, a file each time."""
    table = pa.concat_tables([flights.take_rows(prepared)] * 7).slice(0, 327_346)
    (folder / "all").mkdir()
    for number in range(max(2, round(rows / table.num_rows))):
        pq.write_table(table, folder / "all" / f"{number:04}.parquet", row_group_size=65_536)
    print(f"{len(list((folder / 'all').iterdir())) * table.num_rows:,} rows of {table.num_columns} columns")


def some_files(folder: pathlib.Path, count: int) -> list[str]:
    return [str(path) for path in sorted((folder / "all").iterdir())[:count]]


def compare_rates(folder: pathlib.Path, model: bytes, prepared: Prepared, turns: int) -> None:
    cores = os.cpu_count() or 1
    total = len(list((folder / "all").iterdir()))
    small = max(1, total // 10)

    def on_ray(count: int) -> float:
        output = folder / "out"
        spec = DatasetSpec(reader="parquet", path=tuple(some_files(folder, count)))
        took = rounds.seconds(lambda: predict_files(spec, model, str(output), Scoring(keep=())))
        shutil.rmtree(output)
        return took

    session = open_session(model, SessionOptions(threads=cores))

    def bare(count: int) -> float:
        def loop() -> None:
            for file in some_files(folder, count):
                with pq.ParquetWriter(
                    folder / "bare.parquet", pa.schema([("label", pa.bool_()), ("probability", pa.float32())])
                ) as out:
                    for part in pq.ParquetFile(file).iter_batches(8192):
                        batch = table_to_batch(pa.table(part), prepared.features)
                        answers = session.infer(batch)
                        out.write_table(
                            pa.table({name: pa.array(values) for name, values in answers.items()})
                        )

        return rounds.seconds(loop)

    def rate(side: object) -> float:
        return (total - small) * 327_346 / (side(total) - side(small))  # type: ignore[operator]

    on_ray(1)
    print("rows a second, start-up apart:")
    medians = rounds.alternate({"raymlops": lambda: rate(on_ray), "bare loop": lambda: rate(bare)}, turns)
    rounds.verdict("predict to a bare ONNX Runtime loop", medians["raymlops"] / medians["bare loop"], 0.8)


def compare_memory(folder: pathlib.Path, model: bytes) -> None:
    peaks = {}
    for times in (1, 4, 16):
        with Peak() as peak:
            spec = DatasetSpec(reader="parquet", path=tuple(some_files(folder, times)))
            predict_files(spec, model, str(folder / "out"), Scoring(keep=()))
        shutil.rmtree(folder / "out")
        peaks[times] = peak.bytes
        print(
            f"  {times:>2}x the flights: peak {peak.bytes / 2**20:,.0f} MiB over driver, workers and object store"
        )
    rounds.verdict("peak memory at 16x to 4x", peaks[16] / peaks[4], 1.25, at_most=True)


class Peak:
    """The largest sum of proportional set sizes of this process and all below it, sampled while the context lasts."""

    bytes = 0

    def __enter__(self) -> "Peak":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.is_set():
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)
            time.sleep(0.3)


if __name__ == "__main__":
    main()
