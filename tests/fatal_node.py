"""A Python node that ends its process, as a fault in native code would."""

import os
import signal

from raymlops.tensors import Batch


class Fatal:
    """y = x; but a row that holds -1 ends the process."""

    def run(self, batch: Batch) -> Batch:
        if (batch["x"] == -1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": batch["x"]}


class Calm:
    """y = x, whatever it is."""

    def run(self, batch: Batch) -> Batch:
        return {"y": batch["x"]}
