"""Memory limit for the tensors of all runs of a replica, so that no request uses up the machine's memory."""

import os
import pathlib

import psutil

from raymlops.specs.serving import ServingSpec

_SMALLEST = 2**30
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def bound_memory(spec: ServingSpec) -> int:
    """Bytes: the spec's value, else three quarters of a replica's reservation, else its share of half the machine's
    memory."""
    if spec.limits.run_memory_mb:
        return int(spec.limits.run_memory_mb * 2**20)
    return share_memory(spec.cpus, int(spec.memory_mb * 2**20))


def share_memory(cpus: float, reserved: int = 0) -> int:
    """Bytes for a process with so many CPUs, for which `reserved` bytes are reserved, 0 for none."""
    if reserved:
        return reserved * 3 // 4
    share = min(1.0, cpus / (os.cpu_count() or 1))
    return max(_SMALLEST, int(read_memory() * share / 2))


def read_memory() -> int:
    """Bytes of memory of this machine, or of the container if that has less."""
    total = int(psutil.virtual_memory().total)
    for name in _CGROUP:
        path = pathlib.Path(name)
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total
