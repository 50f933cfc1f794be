"""Asks a model whose rows are proven to stand alone, alone and beside others, and tells where the answers differ."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime

from raymlops.models.row_independence import prove_rows
from raymlops.tensors import Batch
from tests import onnx_corpus, random_onnx_graphs
from tests.random_onnx_graphs import are_equal, make_values


@dataclasses.dataclass
class Count:
    """`differing` are the names of models of which a row was answered otherwise beside others."""

    models: int = 0
    proven: int = 0
    ran: int = 0
    differing: list[str] = dataclasses.field(default_factory=list)


def open_plainly(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """As the file stands: ONNX Runtime 1.31.1 dies in its optimisers of a few odd graphs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def check_random_graphs(first: int, last: int) -> Count:
    """The graphs of these seeds, each on tame rows and on extremes."""
    count = Count()
    for seed in range(first, last):
        model, inputs = random_onnx_graphs.make_graph(seed)
        count.models += 1
        if not prove_rows(model.SerializeToString()):
            continue
        count.proven += 1
        session = open_plainly(model)
        noise = np.random.default_rng(seed)
        for tame in (True, False):
            rows = {t.name: make_values(t.kind, (7, *t.value.shape[1:]), noise, tame) for t in inputs}
            if _differs(session, rows, 7, count):
                count.differing.append(str(seed))
    return count


def check_corpus(most_free: int, quick: bool) -> Count:
    """Every model that onnx generates; `quick` leaves out those that it writes with an operator's own definition."""
    count = Count()
    noise = np.random.default_rng(0)
    for case in onnx_corpus.list_cases():
        if quick and case.name.endswith("_expanded"):
            continue
        for name, model, batch in onnx_corpus.free_rows(case, most_free):
            count.models += 1
            if not prove_rows(model.SerializeToString()):
                continue
            count.proven += 1
            model.ir_version = min(model.ir_version, 10)
            try:
                session = open_plainly(model)
            except Exception:
                continue
            rows = len(next(iter(batch.values())))
            order = np.concatenate([noise.permutation(rows), noise.permutation(rows)])
            if _differs(session, {key: values[order] for key, values in batch.items()}, 2 * rows, count):
                count.differing.append(name)
    return count


def _differs(session: onnxruntime.InferenceSession, batch: Batch, rows: int, count: Count) -> bool:
    """Whether the rows from one place to another are answered otherwise than alone. Copies, as from another request:
    where rows lie in memory must not matter either."""
    try:
        together = session.run(None, batch)
    except Exception:  # then each is asked alone
        return False
    count.ran += 1
    for start, stop in [*((row, row + 1) for row in range(rows)), (1, max(2, rows - 1))]:
        alone = session.run(None, {name: values[start:stop].copy() for name, values in batch.items()})
        if not all(
            _shape(answer)[:1] == (rows,) and are_equal(np.asarray(own), np.asarray(answer)[start:stop])
            for own, answer in zip(alone, together, strict=True)
        ):
            return True
    return False


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(np.shape(value))
