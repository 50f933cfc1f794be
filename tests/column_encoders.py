"""Small ONNX files that encode columns: texts by latent semantic analysis of a corpus, images by convolutions."""

import pathlib
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from raymlops.onnx_builder import GraphBuilder


def train_text_encoder(path: pathlib.Path, texts: Sequence[str], width: int = 4) -> None:
    """Words -> counts -> the first directions of the texts' word counts (Deerwester et al. 1990)."""
    words = sorted({word for text in texts for word in text.split()})
    counts = np.array([[text.split().count(word) for word in words] for text in texts], dtype=np.float32)
    directions = np.linalg.svd(counts - counts.mean(0), full_matrices=False)[2][:width].T  # (words, width)
    build = GraphBuilder()
    split, _ = build.add_outputs("StringSplit", "texts", outputs=2, maxsplit=64)
    ids = build.add(
        "LabelEncoder", split, domain="ai.onnx.ml", keys_strings=words,
        values_int64s=list(range(1, len(words) + 1)), default_int64=0,
    )  # fmt: skip
    found = build.add(
        "TfIdfVectorizer", ids, mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0,
        ngram_counts=[0], ngram_indexes=list(range(len(words))), pool_int64s=list(range(1, len(words) + 1)),
    )  # fmt: skip
    build.add("MatMul", found, build.constant(directions.astype(np.float32)), name="numbers")
    save(
        build.to_model(
            "texts", [value("texts", TensorProto.STRING, "rows")], [value("numbers", 1, "rows", width)]
        ),
        path,
    )


def make_image_encoder(path: pathlib.Path, channels: int = 1, width: int = 6, opset: int = 17) -> None:
    """A backbone: (rows, channels, height, width) -> (rows, width, 1, 1), in an older opset."""
    kernels = np.random.default_rng(0).normal(size=(width, channels, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "kernels"], ["found"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["found"], ["bent"]),
        helper.make_node("GlobalAveragePool", ["bent"], ["numbers"]),
    ]
    graph = helper.make_graph(
        nodes, "images", [value("pixels", 1, "rows", channels, "h", "w")], [value("numbers", 1, "rows", width, 1, 1)],
        [numpy_helper.from_array(kernels, "kernels")],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def save(model: onnx.ModelProto, path: pathlib.Path) -> None:
    path.write_bytes(model.SerializeToString())
