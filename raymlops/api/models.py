"""Models that exist: load_model, predict, register, convert, promote."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from raymlops.api.arguments import select_columns, to_arrow
from raymlops.api.training import Search
from raymlops.errors import DataError
from raymlops.settings import Settings

if TYPE_CHECKING:
    from raymlops.lifecycle.batch.predict import OnnxScorer
    from raymlops.models.safety import Model
    from raymlops.tensors import Signature


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model that predicts in this process, with ONNX Runtime."""

    uri: str
    content: "Model"
    _scorer: "OnnxScorer | None" = dataclasses.field(default=None, init=False, repr=False, compare=False)
    """Created when the first rows are predicted."""

    @property
    def signature(self) -> "Signature":
        """Its inputs and outputs."""
        from raymlops.models.session import open_session

        return open_session(self.content).signature

    def predict(self, rows: pd.DataFrame | pa.Table, keep: tuple[str, ...] | list[str] = ()) -> pd.DataFrame:
        """The predictions, one row for each row of `rows` and with its index; `keep` are input columns to add.
        A prediction that has the name of one of them becomes `predicted_NAME`.

        Strings, categories, booleans, nullable integers, and timestamps with or without a time zone are converted to
        the model's inputs; other columns are ignored. Raises DataError if `rows` is not a table, or a column is missing
        or of another type.
        """
        from raymlops.lifecycle.batch.predict import OnnxScorer, name_predictions

        scorer = self._scorer
        if scorer is None:
            scorer = OnnxScorer(self.content, (), threads=os.cpu_count() or 1, max_rows=8192)
            object.__setattr__(self, "_scorer", scorer)
        table = to_arrow(rows, {spec.name for spec in (*scorer.signature.inputs, *scorer.optional)})
        frame: pd.DataFrame = scorer(table).to_pandas()
        if isinstance(rows, pd.DataFrame):
            frame.index = rows.index
        kept = select_columns(rows, [*map(str, keep)])
        frame = frame.rename(columns=name_predictions(map(str, kept.columns), frame.columns))
        return pd.concat([kept, frame], axis=1) if len(kept.columns) else frame


def load_model(model: str | os.PathLike[str] | Search) -> LoadedModel:
    """A version (`models:/flights@champion`, `models:/flights/3`), an ONNX file, or what a search found, checked as for
    serving.

    Raises NotFoundError, ArtifactError, UntrustedError.
    """
    from raymlops.runtime.sources import read_source

    if isinstance(model, Search):
        model = model.version or model.model
    if not isinstance(model, (str, os.PathLike)):
        raise DataError(
            f"Cannot load a {type(model).__name__}; give models:/NAME@ALIAS, an ONNX file, or what search returned"
        )
    return LoadedModel(str(model), read_source(str(model), Settings.from_env()))


def predict(
    model: str | os.PathLike[str] | Search,
    rows: pd.DataFrame | pa.Table,
    keep: tuple[str, ...] | list[str] = (),
) -> pd.DataFrame:
    """The predictions of a model for a table in memory: see LoadedModel.predict. For files use `raymlops predict`."""
    return load_model(model).predict(rows, keep)


def register(file: str | os.PathLike[str], name: str, why: str) -> str:
    """Register an ONNX file of any origin; returns `models:/NAME/VERSION`. Raises NotFoundError, ArtifactError."""
    from raymlops.lifecycle.govern.register import register_file

    version, _ = register_file(pathlib.Path(file), name, why, Settings.from_env())
    return f"models:/{name}/{version}"


def convert(
    file: str | os.PathLike[str],
    name: str,
    *,
    data: str | os.PathLike[str] | pd.DataFrame | pa.Table | None = None,
    classes: Sequence[str | int] = (),
    target: str = "target",
    rounds: int | None = None,
    trust: bool = False,
    why: str = "",
) -> str:
    """Register a saved model of another library, a file or one that was logged in MLflow (`runs:/RUN/PATH`,
    `models:/NAME/VERSION`), as `raymlops convert` does; returns `models:/NAME/VERSION`.

    `data` are rows as it was trained on them (a table, .parquet or .csv), which both predict; `classes` are in the
    order of training; `trust` runs code that the file brings. Raises NotFoundError, SpecError, DataError,
    ArtifactError (a file that is broken or not convertible), ParityError (the ONNX file answers otherwise), UserError
    (its library is not installed).
    """
    from raymlops.lifecycle.govern.logged_models import convert_model

    given: Any = data
    if isinstance(data, (str, os.PathLike)):
        given = pathlib.Path(data)
    elif data is not None:
        given = to_arrow(data, {str(column) for column in getattr(data, "columns", ())})
    found = convert_model(
        os.fspath(file),
        name,
        Settings.from_env(),
        why=why,
        data=given,
        classes=tuple(map(str, classes)),
        target=target,
        rounds=rounds,
        trust=trust,
    )
    return f"models:/{name}/{found.version}"


def promote(name: str, version: str | int, why: str, *, alias: str = "champion", force: bool = False) -> None:
    """Point an alias of a model at a version, on the record. Only a version that passed the gate becomes champion,
    unless `force`. Raises NotFoundError, UserError."""
    from raymlops.lifecycle.govern.register import promote_version

    promote_version(name, str(version), alias, why, Settings.from_env(), force=force)
