"""Runs rivals in turns and compares their medians. Absolute times mean nothing on shared machines; ratios do."""

import statistics
import time
from collections.abc import Callable, Mapping


def alternate(rivals: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Call each rival once a round, in turns. Gives the median of what each returned."""
    found: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(rounds):
        names = list(rivals) if turn % 2 == 0 else list(rivals)[::-1]
        for name in names:
            found[name].append(rivals[name]())
            print(f"  round {turn + 1}/{rounds}  {name:<28} {found[name][-1]:,.1f}", flush=True)
    return {name: statistics.median(values) for name, values in found.items()}


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def verdict(what: str, ratio: float, wanted: float, *, at_most: bool = False) -> None:
    """One line: the ratio, what it should be, and whether it is."""
    held = ratio <= wanted if at_most else ratio >= wanted
    sign = "at most" if at_most else "at least"
    print(
        f"{what}: {ratio:.2f}x ({sign} {wanted}x wanted): {'reached' if held else 'NOT REACHED'}", flush=True
    )
