"""A client of an endpoint over HTTP: sends a model its example, or rows. Starts nothing."""

import dataclasses
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymlops.errors import (
    AuthenticationError,
    DataError,
    InputError,
    RaymlopsError,
    UnreachableError,
    unknown_name,
)


@dataclasses.dataclass(frozen=True)
class EndpointClient:
    """`base` is the address of the application; with TLS the server must show `certificate`, a file."""

    base: str
    key: str = ""
    certificate: str = ""

    def describe(self, model: str) -> dict[str, Any]:
        """The metadata of a model: its `inputs` and `outputs`."""
        found: dict[str, Any] = json.loads(self._fetch(f"/v2/models/{model}"))
        return found

    def infer(self, model: str, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The output tensors for input tensors, both in the JSON form of the Open Inference Protocol. Raises
        InputError for inputs that the model does not accept, AuthenticationError, UnreachableError, RaymlopsError."""
        body = json.dumps({"inputs": inputs}).encode()
        answer = json.loads(self._fetch(f"/v2/models/{model}/infer", body))
        found: list[dict[str, Any]] = answer["outputs"]
        return found

    def ask_example(self, model: str) -> str:
        """Send a model the example of the endpoint's own document; returns the answer as text."""
        path = f"/v2/models/{model}/infer"
        asked = json.loads(self._fetch("/openapi.json"))["paths"][path]["post"]["requestBody"]["content"]
        question = json.dumps(asked["application/json"]["example"]).encode()
        return f"{model} answered over HTTP: {self._fetch(path, question)}"

    def ask_folder(self, report: Callable[[str], Any]) -> None:
        """Send the first models of a folder their examples; one that cannot be served is reported, and does not stop
        the others."""
        names = [model["name"] for model in json.loads(self._fetch("/v2/repository/index", b"{}"))]
        for name in names[:_ASKED]:
            try:
                self.describe(name)  # loads the model, so that its example is known
            except AuthenticationError:
                raise
            except RaymlopsError as error:
                report(f"{name} cannot be served: {error}")
            else:
                report(self.ask_example(name))
        if len(names) > _ASKED:
            report(f"{len(names) - _ASKED} more models of the folder were not tried")

    def _fetch(self, path: str, body: bytes | None = None) -> str:
        url = self.base + path
        context = None
        if self.certificate:
            context = ssl.create_default_context(cafile=self.certificate)
            # This certificate itself, whoever signed it; the server is called by its address.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.check_hostname = False
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(url, body, headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
                return response.read().decode()  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            if error.code in (401, 403):
                raise AuthenticationError(
                    f"{url} requires an API key: give --key, or RAYMLOPS_KEY, one that may infer ({told})"
                ) from None
            kind = InputError if error.code in (400, 404, 413) else RaymlopsError
            raise kind(f"{url} answered {error.code}: {told}") from None
        except OSError as error:
            cause = getattr(error, "reason", error)
            raise UnreachableError(f"{url} does not answer: {cause}") from None


_ASKED = 10
"""Number of a folder's models that are sent their examples; it may have thousands."""


def infer_table(
    client: EndpointClient, model: str, table: pa.Table, specs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The output tensors for the rows of a table. Raises DataError, InputError."""
    try:
        return client.infer(model, to_inputs(table, specs, times_as_text=True))
    except InputError as error:
        # The model is of another origin, which counts time in INT64: its unit is ours.
        if not any(map(_is_time, table.schema.types)) or "BYTES" not in str(error):
            raise
    return client.infer(model, to_inputs(table, specs))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def to_inputs(
    table: pa.Table, specs: Sequence[Mapping[str, Any]], times_as_text: bool = False
) -> list[dict[str, Any]]:
    """The columns of a table as the input tensors of a model's metadata; nulls and NaN become null, and timestamps
    milliseconds since 1970 in UTC, or text of RFC 3339. Raises DataError for a column that is missing,
    or cannot be a JSON tensor."""
    inputs = []
    for spec in specs:
        name = spec["name"]
        if name not in table.column_names:
            raise DataError(unknown_name("column", name, table.column_names) + "; the model needs it")
        column = table[name]
        try:
            shape, values = [table.num_rows], _to_plain(column, times_as_text).to_pylist()
            for size in spec["shape"][1:]:
                shape.append(_find_length(values, size))
                values = [inner for value in values for inner in value]
            json.dumps(values)
        except (pa.ArrowException, ValueError, TypeError) as error:
            takes = f"{spec['datatype']}{spec['shape']}"
            raise DataError(f"Column {name!r} is {column.type}; the model takes {takes}: {error}") from None
        is_text = times_as_text and _is_time(column.type)
        datatype = "BYTES" if is_text else spec["datatype"]
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "data": values})
    return inputs


def _to_plain(column: pa.ChunkedArray, times_as_text: bool) -> pa.ChunkedArray:
    """Values of a type that JSON has."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
    elif _is_time(kind):
        unit = pa.timestamp("ms", tz=getattr(kind, "tz", None))
        column = pc.cast(pc.cast(column, unit, safe=False), pa.timestamp("ms", tz="UTC"))
        if times_as_text:
            return pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ", locale="C")
        column = pc.cast(column, pa.int64())
    elif pa.types.is_decimal(kind):
        column = pc.cast(column, pa.float64())
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        column = pc.cast(column, pa.string())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column


def _find_length(values: list[Any], size: int) -> int:
    """The one length of the lists, which are the rows' next axis."""
    if not values:
        return max(size, 1)
    lengths = {len(value) if isinstance(value, list) else -1 for value in values}
    if len(lengths) > 1 or -1 in lengths:
        raise ValueError("each row must be a list, all of one length")
    return lengths.pop()


def to_columns(outputs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Output tensors as columns: a value a row, or a list."""
    return {output["name"]: _fold(output["data"], output["shape"][1:]) for output in outputs}


def _fold(values: list[Any], shape: Sequence[int]) -> list[Any]:
    for size in reversed(shape):
        values = [values[start : start + size] for start in range(0, len(values), size)] if size else []
    return values
