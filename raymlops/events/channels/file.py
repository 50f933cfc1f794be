"""A file with a CloudEvents document a line."""

import json
import os
import pathlib
from collections.abc import Callable

from raymlops.events.channels import ChannelAwayError
from raymlops.events.message import Message, to_cloud_document
from raymlops.specs.notify import FileChannel


class FileWriter:
    def __init__(self, settings: FileChannel, find_variable: Callable[[str], str]) -> None:
        self._path = pathlib.Path(settings.path).expanduser()

    def send(self, message: Message) -> None:
        line = json.dumps(to_cloud_document(message)).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # 0600: sentences of alarms name columns and values.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                written = os.write(descriptor, line)
                if written < len(line):
                    # The disk is full: end the partial line, so that the next one can be read.
                    os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_END) - written)
                    raise OSError(28, "No space left on device")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ChannelAwayError(f"Cannot write {str(self._path)!r}: {error.strerror or error}") from None
