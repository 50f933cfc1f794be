"""Numbers that are written as texts: the ways to write them, and their values. Measures nothing."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_PLAIN = r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"
_GROUPED = r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?"
_BLANK, _APOSTROPHE = r"[ \x{a0}\x{202f}\x{2009}]", r"['\x{2019}]"
WRITINGS = {
    "integer": r"^[+-]?\d+$",
    "plain": f"^({_PLAIN}|[+-]?inf)$",
    "thousands": f"^({_GROUPED}|{_PLAIN})$",
    "comma": r"^[+-]?(\d{1,3}(\.\d{3})+|\d*)(,\d+)?$",
    "blanks": rf"^([+-]?\d{{1,3}}({_BLANK}\d{{3}})+(\.\d+)?|{_PLAIN})$",
    "blanks, comma": rf"^[+-]?(\d{{1,3}}({_BLANK}\d{{3}})+|\d+)(,\d+)?$",
    "apostrophes": rf"^([+-]?\d{{1,3}}({_APOSTROPHE}\d{{3}})+(\.\d+)?|{_PLAIN})$",
    "percent": r"^[+-]?\d+(\.\d+)?\s*%$",
    "money": r"^[+-]?[$\x{20ac}\x{a3}]\s?[+-]?\d+(,\d{3})*(\.\d+)?$",
}
"""Ways to write numbers, the usual ones first."""
COMMAS = ("comma", "blanks, comma")
"""Those with a decimal comma."""


def parse_numbers(texts: pa.Array, writing: str) -> npt.NDArray[np.float64]:
    """Texts as numbers; NaN for those that are none. All writings but those of `COMMAS` are read alike."""
    kept = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), rf"[\s'\x{{2019}}]|{_BLANK}", "")
    if writing in COMMAS:
        kept = pc.replace_substring(pc.replace_substring(kept, ".", ""), ",", ".")
    else:
        kept = pc.replace_substring_regex(kept, r"[,%$\x{20ac}\x{a3}]", "")
    kept = pc.if_else(pc.match_substring_regex(kept, WRITINGS["plain"], ignore_case=True), kept, None)
    return np.asarray(pc.cast(kept, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
