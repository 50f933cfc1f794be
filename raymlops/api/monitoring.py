"""What changed: reference, drift; and how what is served is: monitor."""

import datetime
import os
import pathlib
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pyarrow as pa

from raymlops.api.arguments import to_arrow
from raymlops.settings import Settings

if TYPE_CHECKING:
    from raymlops.lifecycle.govern.drift import Data, Drift
    from raymlops.monitoring.health import Health
    from raymlops.monitoring.reference import Reference

Rows: TypeAlias = str | os.PathLike[str] | pd.DataFrame | pa.Table


def reference(
    version: str, data: Rows, *, time: str | None = None, label: str = "", answer: str = "", why: str = ""
) -> "Reference":
    """Keep with a version what its columns and answers are on `data`: a file, a folder, a spec (.yaml) or a table, of
    rows that did not train it. `time` is a column with the time of each row, `label` one with what was right, by
    default the one that the model was trained on, and `answer` the output that it is compared with.

    Raises NotFoundError, DataError, UntrustedError.
    """
    from raymlops.lifecycle.batch.watched_rows import LabelColumn
    from raymlops.lifecycle.govern.drift import make_reference

    given = LabelColumn(label, answer)
    return make_reference(version, _read(data), Settings.from_env(), time=time, label=given, why=why)[1]


def drift(
    version: str | None,
    data: Rows,
    *,
    against: Rows | None = None,
    by: str | None = None,
    every: str = "day",
    level: float = 0.01,
) -> "Drift":
    """Compare `data` with the reference of a version, or with other data; with None for a version, two tables. `by` is
    a column with the time of each row, for a verdict `every` day or hour; `level` is the share of verdicts on data
    without a change that may find one.

    Raises NotFoundError, SpecError, DataError.
    """
    from raymlops.lifecycle.batch.watched_rows import Period
    from raymlops.lifecycle.govern.drift import find_drift

    other = None if against is None else _read(against)
    period = Period(by, every) if by else None
    return find_drift(version, _read(data), Settings.from_env(), against=other, level=level, period=period)


def monitor(
    application: str,
    *,
    last: datetime.timedelta = datetime.timedelta(days=7),
    model: str = "",
    html: str | os.PathLike[str] | None = None,
    path: str = "",
) -> "Health":
    """How an application is, over the `last` days: alarms, columns and answers against what is usual, quality, traffic.
    `model` is one model, endpoint or node alone; `html` a file for the page; `path` the folder of counts, if
    `monitoring.path` of the serving spec names one.

    Raises NotFoundError if nothing was counted of it, StorageError, SpecError if the file cannot be written.
    """
    from raymlops.lifecycle.monitoring.health import HealthReader
    from raymlops.lifecycle.monitoring.health_page import replace_page

    at = datetime.datetime.now(datetime.UTC)
    health = HealthReader(application, Settings.from_env(), path).read(at - last, at, model)
    if html is not None:
        replace_page(pathlib.Path(html), health)
    return health


def _read(data: Rows) -> "Data":
    if isinstance(data, (pd.DataFrame, pa.Table)):
        names: list[Any] = list(data.columns if isinstance(data, pd.DataFrame) else data.column_names)
        return to_arrow(data, {str(name) for name in names})
    from raymlops.cli.prediction import read_table

    return read_table(str(data), None, "drift")
