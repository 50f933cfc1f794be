"""Parts of the rows that are watched by themselves."""

import numpy as np

from raymlops.monitoring.reference import make_reference
from raymlops.monitoring.segments import find_segments


def test_values_and_pairs_with_enough_rows_are_segments_and_their_rows_are_found() -> None:
    random = np.random.default_rng(0)
    values = {
        "origin": random.choice(["JFK", "EWR", "LGA", "XXX"], 5000, p=[0.4, 0.4, 0.19, 0.01]).astype(object),
        "carrier": random.choice(["DL", "AA", None], 5000, p=[0.9, 0.06, 0.04]).astype(object),
        "other": random.choice(["x", "y"], 5000).astype(object),
    }
    reference = make_reference(values, {})
    found = {one.name: one for one in find_segments(reference, ["origin", "carrier"])}
    assert set(found) == {
        "origin=JFK", "origin=EWR", "origin=LGA", "carrier=DL", "carrier=AA", "origin=JFK, carrier=DL",
        "origin=EWR, carrier=DL", "origin=LGA, carrier=DL", "origin=JFK, carrier=AA", "origin=EWR, carrier=AA",
    }  # fmt: skip
    held = found["origin=JFK, carrier=DL"].find_rows(reference.codes)
    assert (held == ((values["origin"] == "JFK") & (values["carrier"] == "DL"))).all()
    assert find_segments(reference) == ()  # none are asked for
