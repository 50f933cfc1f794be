"""A Python node that ends its process, as a fault in native code would, or fails."""

import os
import signal

from raymlops.tensors import Batch


class Fatal:
    """y = x; but a row that holds -1 ends the process, and one of -2 fails."""

    def run(self, batch: Batch) -> Batch:
        if (batch["x"] == -1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (batch["x"] == -2).any():
            raise RuntimeError("the service of features is away")
        return {"y": batch["x"]}


class Calm:
    """y = x, whatever it is."""

    def run(self, batch: Batch) -> Batch:
        return {"y": batch["x"]}
