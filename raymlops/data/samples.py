"""Real tables that installed packages contain, but not as a file that a reader takes."""

import ray.data

from raymlops.errors import NotFoundError


def read_digits() -> ray.data.Dataset:
    """scikit-learn's handwritten digits: `image` (8, 8) of 0 to 16, and `digit`."""
    try:
        from sklearn import datasets
    except ImportError:
        raise NotFoundError(
            "The digits come with scikit-learn; install it: pip install 'raymlops[examples]'"
        ) from None
    found = datasets.load_digits()
    rows = zip(found.images.astype("float32"), found.target.tolist(), strict=True)
    return ray.data.from_items(
        [{"image": image, "digit": digit} for image, digit in rows], override_num_blocks=4
    )
