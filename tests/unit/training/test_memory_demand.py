"""How many rows fit into the memory of a trial."""

from raymlops.features import Packing
from raymlops.training.memory_demand import BASE_BYTES, find_most_rows, predict_bytes

WIDE = Packing(plain=1000)


def test_only_learners_that_would_take_more_than_there_is_get_fewer_rows() -> None:
    free = predict_bytes("lightgbm", 400_000, WIDE)
    found = find_most_rows(("lightgbm", "realmlp", "elsewhere"), 400_000, WIDE, free)
    assert found == {"realmlp": 160_000, "elsewhere": 160_000}
    assert predict_bytes("realmlp", found["realmlp"], WIDE) <= free


def test_a_learner_that_has_no_memory_for_few_rows_is_left_out_and_nothing_is_said_of_unknown_memory() -> (
    None
):
    assert find_most_rows(("linear",), 10**6, WIDE, BASE_BYTES) == {"linear": 0}
    assert find_most_rows(("linear",), 10**9, WIDE, None) == {}
    assert find_most_rows(("linear",), 10**9, Packing(image=(3, 9, 9)), 1) == {}
