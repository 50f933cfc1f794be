"""Asks the example about a page over HTTP, with Triton's client; or writes pages into a file for `raymlops predict`.

python -m examples.ocr.client http://localhost:8000
python -m examples.ocr.client --write pages.parquet
"""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tritonclient.http

from examples.ocr.lettering import Page, draw_page


def ask(url: str, images: np.ndarray, model: str = "ocr") -> list[list[str]]:
    """The texts of each image of (images, height, width, 3), in reading order."""
    client = tritonclient.http.InferenceServerClient(
        url.removeprefix("http://").rstrip("/"), network_timeout=60
    )
    tensor = tritonclient.http.InferInput("image", images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    answer = client.infer(model, [tensor])
    texts = [text.decode() for text in answer.as_numpy("texts")]
    ends = np.cumsum(answer.as_numpy("texts_lengths"))
    return [texts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def write(path: str, pages: list[Page]) -> None:
    """A row a page, its image as lists of lists; pages may have any size."""
    kind = pa.list_(pa.list_(pa.list_(pa.uint8())))
    images = pa.array([page.image.tolist() for page in pages], kind)
    pq.write_table(pa.table({"page": np.arange(len(pages)), "image": images}), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", default="http://localhost:8000", help="where it is served")
    parser.add_argument("--write", metavar="FILE", help="write pages into a Parquet file, and ask nothing")
    parser.add_argument("--side", type=int, default=640, help="pixels of a page's sides")
    options = parser.parse_args()
    if options.write:
        write(options.write, [draw_page(160 + 64 * i, 640, 4 + i, seed=i) for i in range(5)])
        return
    page = draw_page(options.side, options.side, 6)
    print("drawn:", *page.words)
    print("read: ", *ask(options.url, page.image[None])[0])


if __name__ == "__main__":
    main()
