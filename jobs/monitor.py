"""`raymlops monitor` as a Ray job: ray job submit --working-dir . -- python jobs/monitor.py ARGUMENTS"""

import pathlib
import sys

# On a cluster without the package, the submitted working directory holds it.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from raymlops.cli import main

main(["monitor", *sys.argv[1:]])
