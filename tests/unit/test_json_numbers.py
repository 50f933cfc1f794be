"""Bodies that the SIMD parser may read are answered, and refused, exactly as the usual parser has it."""

import collections
import concurrent.futures
import contextlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from raymlops.errors import RaymlopsError
from raymlops.serving import codec, json_numbers
from raymlops.serving.columns import Column
from raymlops.serving.request_limits import RequestLimits
from raymlops.tensors import DATATYPES, Signature, TensorSpec

KINDS = {"FP64": ("", "number", "integer"), "FP32": ("", "integer"), "INT64": ("", "timestamp")}
COLUMNS = [
    Column(TensorSpec(f"{datatype}{kind}{axes}", datatype, (-1,) * axes), kind)
    for datatype in DATATYPES
    for kind in KINDS.get(datatype, ("",))
    for axes in (1, 2)
]
LIMITS = RequestLimits(json_depth=9, json_elements=200)
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


def decode(body: bytes, known: dict[str, Column], limits: RequestLimits, large: int) -> Any:
    """What the request is, to the last bit, or why it is none."""
    signature = Signature(tuple(column.spec for column in known.values()), (TensorSpec("y", "FP32", (-1,)),))
    with large_from(large):
        try:
            found = codec.decode_infer(body, None, known, signature, limits)
        except RaymlopsError as error:
            return type(error), str(error)
    arrays = {
        name: (array.dtype, array.shape, array.tolist() if array.dtype == object else array.tobytes())
        for name, array in found.batch.items()
    }
    return arrays, found.id, repr(found.parameters), found.outputs, found.rows


def check_same(body: bytes, known: dict[str, Column], limits: RequestLimits = LIMITS) -> Any:
    ours, usual = (decode(body, known, limits, large) for large in (0, 2**62))
    assert ours == usual, body
    return ours


def make_data(chance: random.Random, shape: list[int], element: Callable[[random.Random], str]) -> str:
    """Lists of lists of this shape, with something else in it now and then."""
    if chance.random() < 0.02:
        return chance.choice(["[]", "[1, [2]]", "[[1], 2]", "3", "null", *ODD])
    if not shape:
        return element(chance) if chance.random() > 0.02 else chance.choice(ODD)
    size = shape[0] + (chance.random() < 0.02)
    return f"[{', '.join(make_data(chance, shape[1:], element) for _ in range(size))}]"


def make_entry(chance: random.Random, column: Column) -> str:
    sizes = [chance.randint(0, 4) for _ in range(chance.choice([1, 1, 2, 2, 3, 7]))]
    count = int(np.prod(sizes))
    shape = (
        [count] if len(column.spec.shape) == 1 else chance.choice([[count // 2, 2], [1, count], [count, 1]])
    )
    fields = [
        f'"name": {json.dumps(column.spec.name)}',
        f'"shape": {json.dumps(shape if chance.random() < 0.95 else [count + 1])}',
        f'"datatype": "{column.spec.datatype if chance.random() < 0.9 else "INT32"}"',
        f'"data": {make_data(chance, chance.choice([[count], sizes]), chance.choice(ELEMENTS))}',
    ]
    if chance.random() < 0.1:
        fields.append(
            chance.choice(
                ['"parameters": {}', '"parameters": {"a": [[1], {"b": []}]}', '"data": [1]', '"data": null']
            )
        )
    if chance.random() < 0.02:
        fields += [f'"k{i}": 1' for i in range(20)]
    chance.shuffle(fields)
    return f"{{{', '.join(fields)}}}"


def make_request(chance: random.Random) -> tuple[bytes, dict[str, Column]]:
    known = {column.spec.name: column for column in chance.sample(COLUMNS, chance.choice([1, 1, 2, 3]))}
    entries = [make_entry(chance, column) for column in known.values()]
    if chance.random() < 0.03:
        entries.append(chance.choice([entries[0], "3", "[[1]]", "null", "{}"]))
    pairs = [f'"inputs": [{", ".join(entries)}]']
    if chance.random() < 0.2:
        pairs.insert(
            chance.randint(0, 1),
            chance.choice(
                [
                    '"id": "a"',
                    '"id": "[1]"',
                    '"id": 3',
                    '"outputs": [{"name": "y"}]',
                    '"inputs": []',
                    '"inputs": [1]',
                ]
                + [f'"parameters": {{"a": {"[" * depth}1{"]" * depth}}}' for depth in (5, 7, 8, 1100)]
            ),
        )
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


def test_a_wide_request_of_numbers_makes_no_python_object_for_each() -> None:
    """Else all that is tested here would be the usual parser against itself."""
    values = np.random.default_rng(0).normal(size=(64, 32))
    for data in (values.tolist(), values.ravel().tolist()):
        entry = {"name": "FP642", "shape": [64, 32], "datatype": "FP64", "data": data}
        known = {column.spec.name: column for column in COLUMNS if column.spec.name == "FP642"}
        document = json_numbers.read_request(json.dumps({"inputs": [entry]}).encode(), known, 32)
        assert document is not None
        found = document["inputs"][0]["data"]
        assert isinstance(found, np.ndarray)
        assert found.tobytes() == values.tobytes()


def test_requests_in_several_threads_do_not_mix() -> None:
    """A parser is used again for the next request of its thread, as long as nothing of the last one is left."""
    known = {"FP641": next(column for column in COLUMNS if column.spec.name == "FP641")}

    def ask(number: int) -> bool:
        data = [number + i / 7 for i in range(1000)]
        entry = {
            "name": "FP641",
            "shape": [1000],
            "datatype": "FP64",
            "data": data if number % 5 else [*data, None],
        }
        body = json.dumps({"inputs": [entry]}).encode()
        found = decode(body, known, RequestLimits(), 0)
        return found[0]["FP641"][2] == np.array(data).tobytes() if number % 5 else found[0].status == 400

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))
