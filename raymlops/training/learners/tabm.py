"""TabM (Gorishniy, Kotelnikov, Babenko 2024): a torch network for tables, of many members that share most weights and
answer together."""

from collections.abc import Mapping
from typing import Any, ClassVar

from raymlops.specs.training import Dimension
from raymlops.training.learners import Job, steps
from raymlops.training.learners.options import Option
from raymlops.training.table_networks import TableInputs, TabM


class TabMLearner(steps.TableNetworkLearner):
    """See `TableNetworkLearner`."""

    name: ClassVar[str] = "tabm"
    options: ClassVar[Mapping[str, Option]] = {
        **steps.OPTIONS,
        "members": Option("members", 1, 64, whole=True),
    }
    losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "quantile")
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.lr": Dimension(low=5e-4, high=1e-2, log=True),
        "training.options.weight_decay": Dimension(low=1e-3, high=0.3, log=True),
        "training.options.dropout": Dimension(low=0.0, high=0.4),
        "training.options.width": Dimension(choices=(128, 256, 512)),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        return {
            **steps.steps_by_rows(rows),
            "lr": 3e-3,
            "weight_decay": 0.01,
            "dropout": 0.1,
            "width": 256,
            "layers": 3,
            "embedding": 8,
            "frequency": 1.0,
            "members": 8,
        }

    def portfolio(self, rows: int, task: str) -> tuple[dict[str, Any], ...]:
        """Good options to try after the defaults, for so many training rows."""
        return ({"frequency": 0.1}, {"lr": 1e-3, "width": 512})

    def make(self, job: Job, options: Mapping[str, Any], indicators: int) -> TabM:
        embedding, frequency = int(options["embedding"]), float(options["frequency"])
        inputs = TableInputs(job.packing, indicators, embedding=embedding, frequency=frequency)
        sizes = {name: int(options[name]) for name in ("members", "width", "layers")}
        return TabM(inputs, job.target.outputs, dropout=float(options["dropout"]), **sizes)
