"""The matrix of numbers that estimators without missing values get: numbers standardised and filled, with an indicator
where some were missing, a column of 0 and 1 for each value of a category, and target means of long ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from raymlops.features import Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.tensors import Batch, count_rows
from raymlops.training.learners.tree_matrix import TreeMatrix

MOST_VALUES = 64
"""Of a category with a column for each; one of more has its target means alone."""


@dataclasses.dataclass(frozen=True)
class EncodedMatrix:
    """Packed rows -> (rows, columns). `means` has a table (ids, targets) for each category that has any."""

    packing: Packing
    means: dict[int, npt.NDArray[np.float32]]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("numeric", "category"))

    @property
    def columns(self) -> int:
        width: int = sum(table.shape[1] for table in self.means.values())
        return self.packing.numeric + sum(self.packing.categories[place] for place in self._short) + width

    @property
    def _short(self) -> list[int]:
        """Categories with a column for each value."""
        sizes = enumerate(self.packing.categories)
        return [place for place, size in sizes if size <= MOST_VALUES or place not in self.means]

    def of(self, batch: Batch) -> npt.NDArray[np.float32]:
        """For rows to be scored."""
        ids: Any = batch.get("category")
        return self._join(batch, {place: table[ids[:, place]] for place, table in self.means.items()})

    def of_folds(
        self, batch: Batch, means: Mapping[int, npt.NDArray[np.float32]], folds: Any
    ) -> npt.NDArray[np.float32]:
        """For training rows of these folds; `means` are those of `MeansMeter`, of other folds."""
        ids: Any = batch.get("category")
        return self._join(batch, {place: table[ids[:, place], folds] for place, table in means.items()})

    def _join(self, batch: Batch, means: dict[int, Any]) -> npt.NDArray[np.float32]:
        parts = [batch["numeric"]] if self.packing.numeric else []
        for place in self._short:
            values = np.arange(self.packing.categories[place])
            parts.append((batch["category"][:, place, None] == values).astype(np.float32))
        parts += [means[place] for place in sorted(means)]
        return np.concatenate(parts, axis=1) if parts else np.empty((count_rows(batch), 0), np.float32)

    def add_nodes(self, build: GraphBuilder) -> str:
        """The same as ONNX nodes, which read `numeric` and `category`."""
        parts = ["numeric"] if self.packing.numeric else []
        for place in self._short:
            number = build.constant(np.array([place], dtype=np.int64), "column")
            ids = build.add("Gather", "category", number, axis=1)  # (rows, 1)
            values = build.constant(np.arange(self.packing.categories[place], dtype=np.int64), "values")
            parts.append(build.cast(build.add("Equal", ids, values), TensorProto.FLOAT))
        for place, table in sorted(self.means.items()):
            number = build.constant(np.array(place, dtype=np.int64), "column")
            ids = build.add("Gather", "category", number, axis=1)  # (rows,)
            parts.append(build.add("Gather", build.constant(table, "means"), ids, axis=0))
        return build.concat(parts)

    def to_state(self) -> dict[str, npt.NDArray[Any]]:
        return TreeMatrix(self.packing, self.means).to_state()

    @classmethod
    def from_state(cls, state: dict[str, Any], packing: Packing) -> "EncodedMatrix":
        return cls(packing, TreeMatrix.from_state(state, packing).means)
