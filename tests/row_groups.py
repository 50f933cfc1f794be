"""The groups that rows of a test fall into, as those of a pass do."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.data import rowhash
from raymlops.evaluation import partials


def groups_of(columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    return partials.spread(rowhash.hash_rows(pa.table(dict(columns))))
