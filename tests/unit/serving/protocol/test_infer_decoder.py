"""Requests that the SIMD parser or the plan of a model's columns read are answered and refused exactly as the usual way
has it."""

import collections
import concurrent.futures
import contextlib
import datetime
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from raymlops.errors import RaymlopsError
from raymlops.features import MISSING_INSTANT
from raymlops.serving.protocol import infer_decoder, json_numbers, kserve_v1, mlflow_codec, rest_codec
from raymlops.serving.protocol.columns import Column, to_array
from raymlops.serving.protocol.infer_decoder import InferDecoder
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.tensors import DATATYPES, Signature, TensorSpec

KINDS = {
    "FP64": ("", "number", "integer"),
    "FP32": ("", "integer"),
    "INT64": ("", "timestamp", "integer"),
    "BYTES": ("", "string"),
}
COLUMNS = [
    Column(TensorSpec(f"{datatype}{kind}{'x'.join(map(str, shape))}", datatype, shape), kind)
    for datatype in DATATYPES
    for kind in KINDS.get(datatype, ("",))
    for shape in ((-1,), (-1, -1), (-1, 2), (-1, 3, 1))
]
LIMITS = RequestLimits(json_depth=9, json_elements=2000)
ODD = [
    *(
        "-0",
        "-0.0",
        "1e400",
        "-1e400",
        "1e-400",
        "5e-324",
        "1E+2",
        "01",
        "1.",
        ".5",
        "+1",
        "nan",
        "NaN",
        "-Infinity",
    ),
    *(
        "null",
        "true",
        "Null",
        '""',
        '"["',
        '"]"',
        '"a,b"',
        '"é"',
        r'"\ud800"',
        r'"\u0041"',
        '"2013-07-01T12:00:00Z"',
    ),
    *(
        "{}",
        "[]",
        "[[]]",
        '{"a": 1, "a": [2]}',
        "9" * 400,
        "1" + "0" * 30 + ".5",
        "0.10000000000000000555111512312578",
    ),
    *("340282356779733661637539395458142568448", "1.00000005960464477540", "\x01", "\ufeff", "2.5", "1.0"),
    *map(
        str,
        (
            2**53 + 1,
            2**63 - 1,
            2**63,
            -(2**63),
            -(2**63) - 1,
            2**64 - 1,
            2**64,
            -128,
            -129,
            127,
            128,
            255,
            256,
        ),
    ),
]
ELEMENTS: list[Callable[[random.Random], str]] = [
    lambda chance: str(chance.randint(-100, 100)),
    lambda chance: str(chance.randint(0, 300)),
    lambda chance: str(chance.randint(-(2**64), 2**64)),
    lambda chance: repr(chance.uniform(-10, 10)),
    lambda chance: repr(chance.uniform(-1, 1) * 10.0 ** chance.randint(-320, 308)),
    lambda chance: chance.choice(ODD),
    lambda chance: chance.choice(["true", "false"]),
    lambda chance: json.dumps(chance.choice(["", "a", "[1]", "{", "ü", "a, b", 'a"b'])),
]


@contextlib.contextmanager
def large_from(size: int) -> Iterator[None]:
    before, json_numbers.LARGE = json_numbers.LARGE, size
    try:
        yield
    finally:
        json_numbers.LARGE = before


@contextlib.contextmanager
def wide_from(size: int) -> Iterator[None]:
    before, infer_decoder._WIDE = infer_decoder._WIDE, size
    try:
        yield
    finally:
        infer_decoder._WIDE = before


def decode(
    body: bytes,
    known: dict[str, Column],
    limits: RequestLimits,
    large: int,
    plain: bool = False,
    header_length: int | None = None,
) -> Any:
    """What the request is, to the last bit, or why it is none."""
    signature = Signature(tuple(column.spec for column in known.values()), (TensorSpec("y", "FP32", (-1,)),))
    with large_from(large):
        try:
            if plain:
                found = InferDecoder(known).decode(body, header_length, signature, limits)
            else:
                found = rest_codec.decode_infer(body, header_length, known, signature, limits)
        except RaymlopsError as error:
            return type(error), str(error)
    arrays = {
        name: (array.dtype, array.shape, array.tolist() if array.dtype == object else array.tobytes())
        for name, array in found.batch.items()
    }
    return arrays, found.id, repr(found.parameters), found.outputs, found.rows


def check_same(body: bytes, known: dict[str, Column], limits: RequestLimits = LIMITS) -> Any:
    usual = decode(body, known, limits, 2**62)
    assert decode(body, known, limits, 0) == usual, body
    for wide in (0, 2**62):
        with wide_from(wide):
            ours = decode(body, known, limits, 2**62, plain=True)
        assert ours == usual, body
    assert not isinstance(usual[0], dict) or list(ours[0]) == list(usual[0]), "another order"
    return usual


def make_data(chance: random.Random, shape: list[int], element: Callable[[random.Random], str]) -> str:
    """Lists of lists of this shape, with something else in it now and then."""
    if chance.random() < 0.01:
        return chance.choice(["[]", "[1, [2]]", "[[1], 2]", "3", "null", *ODD])
    if not shape:
        return element(chance) if chance.random() > 0.01 else chance.choice(ODD)
    size = shape[0] + (chance.random() < 0.02)
    return f"[{', '.join(make_data(chance, shape[1:], element) for _ in range(size))}]"


MORE_OF_AN_INPUT = [
    *(
        '"parameters": {}',
        '"parameters": {}',
        '"parameters": []',
        '"parameters": null',
        '"parameters": false',
    ),
    *(
        '"parameters": {"a": [[1], {"b": []}]}',
        '"parameters": {"binary_data_size": 4}',
        '"data": [1]',
        '"data": null',
    ),
    ", ".join(f'"k{i}": 1' for i in range(20)),
]


def make_entry(chance: random.Random, column: Column, rows: int) -> str:
    width = next((size for size in column.spec.shape[1:] if size > 0), 1)
    usual = [[rows, width], [rows * width], [rows * width]]
    sizes = chance.choice([*usual, [chance.randint(0, 4) for _ in range(chance.choice([1, 2, 3, 7]))]])
    count = math.prod(sizes)
    shape = {1: [count], 2: [rows, width], 3: [rows, width, 1]}[len(column.spec.shape)]
    if chance.random() < 0.1:
        shape = chance.choice([[count], [1, count], [count, True], [True], [-1], [], [1.0], [count + 1]])
    datatype = (
        chance.choice(["INT32", "BYTES", "FP33", column.spec.datatype]) if chance.random() < 0.1 else None
    )
    fields = [
        f'"name": {json.dumps(column.spec.name)}',
        f'"shape": {json.dumps(shape)}',
        f'"datatype": "{datatype or column.spec.datatype}"',
        f'"data": {make_data(chance, sizes, choose_elements(chance, column))}',
    ]
    if chance.random() < 0.1:
        fields.append(chance.choice(MORE_OF_AN_INPUT))
    chance.shuffle(fields)
    return f"{{{', '.join(fields)}}}"


def choose_elements(chance: random.Random, column: Column) -> Callable[[random.Random], str]:
    """Most often such as the column takes."""
    fit = {"BYTES": ELEMENTS[-1], "BOOL": ELEMENTS[-2]}.get(column.spec.datatype, ELEMENTS[0])
    return fit if chance.random() < 0.6 else chance.choice(ELEMENTS)


def nest(levels: int) -> str:
    """Lists and objects in each other."""
    if levels == 0:
        return "1"
    return f"[{nest(levels - 1)}]" if levels % 3 else f'{{"a": {nest(levels - 1)}}}'


EDGES = [
    *('"id": "a"', '"id": "[1]"', '"id": "true"', '"id": 3', '"id": null', '"inputs": []', '"inputs": [1]'),
    *(
        '"outputs": [{"name": "y"}]',
        '"outputs": [{"name": "z"}]',
        '"outputs": ["y"]',
        '"outputs": {}',
        '"a": [true]',
    ),
    '"outputs": [{"name": "y", "parameters": {"binary_data": true}}]',
    *('"parameters": {"timeout": 3, "binary_data_output": true}', '"parameters": {"binary_data_output": 1}'),
    *(f'"parameters": {{"a": {nest(levels)}}}' for levels in (1, 2, 3, 5, 6, 7, 8)),
    *(f'"parameters": {{"a": {nest(levels)}, "a": 1}}' for levels in (5, 7, 8)),
    *(f'"id": {nest(levels)}, "id": "x"' for levels in (6, 8, 9)),
    *('"parameters": ' + "[" * levels + "]" * levels for levels in (9, 1100)),
    *('"id": ' + '{"a": ' * levels + "1" + "}" * levels + ', "id": ""' for levels in (8, 9, 1100)),
]


def make_request(chance: random.Random) -> tuple[bytes, dict[str, Column]]:
    known = {column.spec.name: column for column in chance.sample(COLUMNS, chance.choice([1, 1, 2, 3, 8]))}
    rows = chance.choice([1, 1, 2, 3, 20])
    entries = [make_entry(chance, column, rows) for column in known.values()]
    chance.shuffle(entries)
    if chance.random() < 0.03:
        entries.append(chance.choice([entries[0], "3", "[[1]]", "null", "{}"]))
    pairs = [f'"inputs": [{", ".join(entries)}]']
    if chance.random() < 0.3:
        pairs.insert(chance.randint(0, 1), chance.choice(EDGES))
    text = f"{{{', '.join(pairs)}}}"
    if chance.random() < 0.05:
        text = chance.choice(
            ["\ufeff" + text, " \n" + text + "\t", text + "x", text[:-1], text + "\0", text + text]
        )
    return text.encode("utf-8", "surrogatepass"), known


@pytest.mark.parametrize("seed", range(20))
def test_any_request_is_read_as_by_the_usual_parser(seed: int) -> None:
    chance = random.Random(seed)
    outcomes = collections.Counter()
    for _ in range(150):
        body, known = make_request(chance)
        outcome = check_same(body, known)
        outcomes[isinstance(outcome[0], dict)] += 1
        if chance.random() < 0.3:  # and with a byte of it changed
            at = chance.randrange(len(body))
            check_same(body[:at] + bytes([chance.choice(b'[]{},:"0.-e \\N\x00\xff')]) + body[at + 1 :], known)
    assert min(outcomes[True], outcomes[False]) > 10


def make_binary_request(chance: random.Random) -> tuple[bytes, int, dict[str, Column]]:
    """Binary tensors behind the JSON, with something wrong now and then."""
    known = {column.spec.name: column for column in chance.sample(COLUMNS, chance.choice([1, 2, 5]))}
    rows = chance.choice([1, 1, 2, 5])
    entries, blobs = [], []
    for name, column in known.items():
        width = next((size for size in column.spec.shape[1:] if size > 0), 1)
        shape: list[Any] = {1: [rows], 2: [rows, width], 3: [rows, width, 1]}[len(column.spec.shape)]
        count = math.prod(shape)
        if column.spec.datatype == "BYTES":
            texts = [
                chance.choice([b"", b"a", "ü".encode(), b"[true]", b"\xff"[: chance.random() < 0.1]])
                for _ in range(count)
            ]
            texts = chance.choice([texts, [chance.choice([b"US", b"\0\0", b"a]"]) for _ in range(count)]])
            blob = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            values = [chance.choice([0, 1, 2, 100, 0.5]) for _ in range(count)]
            blob = np.array(values).astype(column.spec.dtype).tobytes()
        if chance.random() < 0.05:
            blob = chance.choice([blob + b"\0", blob[:-1], b"", b"\2" * len(blob), b"\xff" * len(blob)])
        if chance.random() < 0.05:
            shape = chance.choice([[True], [rows + 1], [rows, 1], [], [-1], [rows, width, True]])
        size: Any = (
            chance.choice([len(blob), len(blob) + 1, True, -1, "4"]) if chance.random() < 0.05 else len(blob)
        )
        entry = {
            "name": name,
            "shape": shape,
            "datatype": column.spec.datatype,
            "parameters": {"binary_data_size": size},
        }
        if chance.random() < 0.05:
            entry |= chance.choice(
                [{"data": [1]}, {"datatype": "INT16"}, {"parameters": {}}, {"name": "x"}, {"a": [[]]}]
            )
        entries.append(entry)
        blobs.append(blob)
    order = chance.sample(range(len(entries)), len(entries))
    text = json.dumps({"inputs": [entries[i] for i in order]})
    if chance.random() < 0.3:
        text = f"{{{chance.choice(EDGES)}, {text[1:]}"
    data = text.encode()
    off = chance.choice([-1, 1, 5]) if chance.random() < 0.05 else 0
    return data + b"".join(blobs[i] for i in order), len(data) + off, known


@pytest.mark.parametrize("seed", range(5))
def test_any_binary_request_is_read_as_by_the_usual_way(seed: int) -> None:
    chance = random.Random(seed)
    read = 0
    for _ in range(150):
        body, length, known = make_binary_request(chance)
        for limits in (LIMITS, RequestLimits(json_depth=4, json_elements=3, rows=2, elements=8)):
            usual = decode(body, known, limits, 2**62, header_length=length)
            assert decode(body, known, limits, 2**62, plain=True, header_length=length) == usual, body
            read += isinstance(usual[0], dict)
    assert 30 < read < 270


def make_table(chance: random.Random) -> tuple[bytes, dict[str, Column]]:
    """One tensor in the forms of MLflow and of KServe's protocol of version 1."""
    column = chance.choice(COLUMNS)
    more = chance.choice(
        [[], [], [Column(TensorSpec("more", "FP32", (-1,)), optional=chance.random() < 0.5)]]
    )
    rows = chance.choice([1, 2, 5])
    width = next((size for size in column.spec.shape[1:] if size > 0), 1)
    usual = {1: [rows], 2: [rows, width], 3: [rows, width, 1]}[len(column.spec.shape)]
    sizes = usual if chance.random() < 0.8 else chance.choice([[rows, width], [rows], [1] * 9, [1] * 10])
    data = make_data(chance, sizes, choose_elements(chance, column))
    name = json.dumps(column.spec.name) if chance.random() < 0.95 else '"other"'
    value = chance.choice(
        [data, data, f"{{{name}: {data}}}", f"{{{name}: {data}, {name}: [1]}}", f"[{{{name}: 1}}]"]
    )
    form = chance.choice(["instances", "instances", "inputs", "inputs", "dataframe_split"])
    tails = [', "params": {}', f', "{form}": [1]', ', "id": [[[[[[[[[]]]]]]]]]', ", 1"]
    tail = chance.choice(tails) if chance.random() < 0.2 else ""
    text = f'{chance.choice(["", " "])}{{"{form}": {value}{tail}}}'
    if chance.random() < 0.05:
        text = chance.choice(["\ufeff" + text, text + "]", text[:-1]])
    return text.encode(), {one.spec.name: one for one in [column, *more]}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", [mlflow_codec, kserve_v1])
def test_any_table_of_numbers_is_read_as_by_the_usual_parser(form: Any, seed: int) -> None:
    chance = random.Random(seed)
    read = 0
    for _ in range(200):
        body, known = make_table(chance)
        found = []
        for large in (0, 2**62):
            with large_from(large):
                try:
                    scored = form.decode(body, "application/json", known, LIMITS)
                except RaymlopsError as error:
                    found.append((type(error), str(error)))
                else:
                    arrays = {name: (a.dtype, a.shape, a.tolist()) for name, a in scored.batch.items()}
                    found.append((repr(arrays), scored.rows, scored.by_row, scored.parameters))
        assert found[0] == found[1], body
        read += isinstance(found[0][0], str)
    assert 20 < read < 190


def test_a_wide_request_of_numbers_makes_no_python_object_for_each() -> None:
    """Else all that is tested here would be the usual parser against itself."""
    values = np.random.default_rng(0).normal(size=(1024, 2))
    for data in (values.tolist(), values.ravel().tolist()):
        entry = {"name": "FP64-1x2", "shape": [1024, 2], "datatype": "FP64", "data": data}
        known = {column.spec.name: column for column in COLUMNS if column.spec.name == "FP64-1x2"}
        document = json_numbers.read_request(json.dumps({"inputs": [entry]}).encode(), known, 32)
        assert document is not None
        found = document["inputs"][0]["data"]
        assert isinstance(found, np.ndarray)
        assert found.tobytes() == values.tobytes()


def test_requests_in_several_threads_do_not_mix() -> None:
    """A parser is used again for the next request of its thread, as long as nothing of the last one is left."""
    known = {"FP64-1": next(column for column in COLUMNS if column.spec.name == "FP64-1")}

    def ask(number: int) -> bool:
        data = [number + i / 7 for i in range(1000)]
        entry = {
            "name": "FP64-1",
            "shape": [1000],
            "datatype": "FP64",
            "data": data if number % 5 else [*data, None],
        }
        body = json.dumps({"inputs": [entry]}).encode()
        found = decode(body, known, RequestLimits(), 0)
        return found[0]["FP64-1"][2] == np.array(data).tobytes() if number % 5 else found[0].status == 400

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))


def test_times_are_told_to_the_millisecond_before_and_after_1970_and_again_when_remembered() -> None:
    chance = random.Random(0)
    column = Column(TensorSpec("at", "INT64", (-1,)), "timestamp")
    zones = [None, datetime.UTC, *(datetime.timezone(datetime.timedelta(minutes=m)) for m in (-754, 330))]
    times = [
        datetime.datetime(1, 1, 2, tzinfo=datetime.UTC)
        + datetime.timedelta(seconds=chance.randrange(315_000_000_000), microseconds=chance.randrange(10**6))
        for _ in range(500)
    ]
    texts = [time.astimezone(chance.choice(zones) or datetime.UTC).isoformat() for time in times]
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    wanted = [(time - epoch) // datetime.timedelta(milliseconds=1) for time in times]
    for _ in range(2):
        assert to_array([*texts, None], column).tolist() == [*wanted, MISSING_INSTANT]
