"""An observer that a user would write: a line of a file for each request whose first score is over a threshold."""

import json
import pathlib
from collections.abc import Sequence

from raymlops.observers import Event


class HighScores:
    def __init__(self, path: str, output: str, threshold: float = 0.9) -> None:
        self._path = pathlib.Path(path)
        self._output, self._threshold = output, threshold

    def observe(self, events: Sequence[Event]) -> None:
        lines = []
        for event in events:
            scores = event.answer and event.answer.get(self._output)
            if scores is not None and scores.size and scores.flat[0] > self._threshold:
                line = {"model": event.model, "version": event.version, "request": event.request_id}
                lines.append(json.dumps(line | {"score": float(scores.flat[0])}) + "\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
