import inspect
import pickle

import pytest

from raymlops import errors

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RaymlopsError)
]


def arguments_of(kind: type[errors.RaymlopsError]) -> list[object]:
    extra = list(inspect.signature(kind.__init__).parameters.values())[2:]
    return ["it broke", *(3.5 if parameter.annotation in (float, "float") else "x" for parameter in extra
                          if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickling_with_all_it_carries(kind: type[errors.RaymlopsError]) -> None:
    error = kind(*arguments_of(kind))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.__dict__) == (str(error), error.__dict__)
    assert str(error) == "it broke"


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_status_and_an_exit_code(kind: type[errors.RaymlopsError]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.exit_code in (1, 2)
    assert kind.exit_code == 2 or not issubclass(kind, errors.UserError)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in KINDS if kind.__name__ not in errors.__doc__] == []


def test_a_wrong_name_gets_the_nearest_one() -> None:
    sentence = errors.unknown_name("network", "mpl", ["mlp", "cnn"])
    assert sentence == "Unknown network 'mpl'; did you mean 'mlp'? Known: cnn, mlp"
    assert errors.unknown_name("network", "zzz", []) == "Unknown network 'zzz'; Known: none"
