"""Runs every benchmark, each in a process of its own: python -m benchmarks [NAME ...]"""

import subprocess
import sys

NAMES = ("profiling", "training", "search", "tracking", "predict", "serving", "graphs", "cluster")


def main() -> None:
    wanted = sys.argv[1:] or NAMES
    for name in wanted:
        if name not in NAMES:
            sys.exit(f"No benchmark {name!r}; there are: {', '.join(NAMES)}")
    failed = [
        name for name in wanted if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode
    ]
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


main()
