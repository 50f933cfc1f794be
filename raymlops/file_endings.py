"""What the ending of a file's name says: its reader and its compression. Opens no file."""

import pathlib

from raymlops import locations

READER_OF_ENDING = {
    **dict.fromkeys(("csv", "tsv", "tab", "txt", "data", "dat", "psv"), "csv"),
    **dict.fromkeys(("parquet", "pq", "parq"), "parquet"),
    **dict.fromkeys(("json", "jsonl", "ndjson"), "json"),
    **dict.fromkeys(("avro",), "avro"),
    **dict.fromkeys(("lance",), "lance"),
    **dict.fromkeys(("tfrecord", "tfrecords"), "tfrecords"),
    **dict.fromkeys(("png", "jpg", "jpeg", "gif", "bmp", "webp"), "images"),
}
COMPRESSION_OF_ENDING = {
    "gz": "gzip",
    "gzip": "gzip",
    "bz2": "bz2",
    "zst": "zstd",
    "zstd": "zstd",
    "lz4": "lz4",
    "br": "brotli",
}


def split_ending(file: str) -> tuple[str, str]:
    """The ending of the format, and that of the compression; empty where there is none."""
    parts = pathlib.PurePath(file).name.lower().split(".")[1:]
    last = parts.pop() if parts else ""
    if last in COMPRESSION_OF_ENDING:
        return (parts.pop() if parts else ""), last
    return last, ""


def is_hidden(below: tuple[str, ...]) -> bool:
    """Whether readers of a folder pass over a file, by the parts of its path below the folder: hidden ones, and those
    of programs such as _SUCCESS."""
    return any(part.startswith((".", "_")) for part in below)


def guess_reader(path: str) -> str | None:
    """The reader of a file's ending; of a local folder, of the endings of its files. None if it is not known."""
    folder = pathlib.Path(path)
    if not locations.is_remote(path) and folder.is_dir():
        files = [file for file in folder.rglob("*") if not is_hidden(file.relative_to(folder).parts)]
        found = {guess_reader(str(file)) for file in files if file.is_file()} - {None}
        return found.pop() if len(found) == 1 else None
    return reader_of_name(path)


def reader_of_name(path: str) -> str | None:
    """The reader of the ending of a path, pattern or URL, of which nothing is opened. None if it is not known."""
    name = path.partition("::")[0]  # of a file inside an archive
    if locations.is_remote(path):
        name = name.partition("?")[0]
    return READER_OF_ENDING.get(split_ending(name)[0])
