"""Keras models that a user would write."""

from typing import Any

import keras


def joined(features: int, outputs: int, width: int = 16, dropout: float = 0.1) -> Any:
    return keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Normalization(mean=[0.1] * features, variance=[2.0] * features),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(outputs),
        ]
    )


def embedded(numeric: int, categories: tuple[int, ...], outputs: int, **options: Any) -> Any:
    inputs = {"numeric": keras.Input((numeric,), name="numeric")}
    parts = [inputs["numeric"]]
    if categories:
        inputs["category"] = keras.Input((len(categories),), name="category", dtype="int64")
        for place, size in enumerate(categories):
            parts.append(keras.layers.Embedding(size, 4)(inputs["category"][:, place]))
    body = keras.layers.Dense(options.get("width", 16), activation="gelu")(keras.layers.Concatenate()(parts))
    return keras.Model(inputs, keras.layers.Dense(outputs)(body))


def softmax(features: int, outputs: int) -> Any:
    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(outputs, activation="softmax")])


def compiled(features: int, outputs: int) -> Any:
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(outputs)])
    model.compile("adam", "mse")
    return model


def wide(features: int, outputs: int) -> Any:
    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(outputs + 1)])


def raising(features: int, outputs: int) -> Any:
    raise RuntimeError("no such layer")


def nothing(features: int, outputs: int) -> Any:
    return None
