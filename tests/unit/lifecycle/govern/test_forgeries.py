"""Whoever may write to the store, and holds no trusted key, cannot change a record without it being noticed."""

import pytest

from raymlops.errors import RaymlopsError, UserError
from raymlops.lifecycle.govern import promotion
from raymlops.tracking import history, registry
from tests.forgeries import GOOD, World, list_forgeries

_EVERY = 59  # of the changes to single tags, aliases and files; all of them are tried in tests/survival


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def require_noticed(world: World, every: int) -> int:
    """Try changes, all kinds of which are noticed, and none of which makes a bad version champion."""
    assert world.notices() == []
    single = ("edit ", "drop ", "rename ", "swap ", "replay ", "duplicate ", "replace ", "alias ")
    chosen = [
        forgery
        for place, forgery in enumerate(list_forgeries(world))
        if not forgery.name.startswith(single) or place % every == 0
    ]
    unnoticed = []
    for forgery in chosen:
        forgery.make()
        try:
            if not world.notices(forgery.seen):
                unnoticed.append(forgery.name)
            world.require_safe()
        except AssertionError as error:
            unnoticed.append(f"{forgery.name}: {error}")
        finally:
            world.undo()
    assert unnoticed == []
    assert world.notices() == []
    return len(chosen)


@pytest.mark.slow
def test_forgeries_are_noticed(world: World) -> None:
    assert require_noticed(world, _EVERY) > 20


@pytest.mark.slow
def test_what_the_gate_blocked_or_never_saw_is_not_promoted(world: World) -> None:
    for version, words in (("3", "was blocked: auc"), ("5", "was never judged")):
        with pytest.raises(UserError, match=words):
            promotion.move_alias(GOOD, version, "champion", "please", world.settings)


@pytest.mark.slow
def test_a_store_that_was_put_back_as_a_whole_shows_to_who_has_seen_more(world: World) -> None:
    world.judge(GOOD, "5", passed=True)
    promotion.move_alias(GOOD, "5", "champion", "it passed", world.settings)
    world.undo("artifacts")
    problems = history.read_history(world.client, GOOD, world.settings).problems
    assert any("has been seen here before" in problem for problem in problems)
    with pytest.raises(RaymlopsError, match="has been seen here before"):
        promotion.roll_back(GOOD, "please", world.settings)
    done = promotion.repair_record(GOOD, "the database was put back from a backup", world.settings)
    assert any("anew" in line for line in done)
    record = history.read_history(world.client, GOOD, world.settings)
    assert record.problems == ()
    assert record.aliases["champion"] == "2"
    assert registry.resolve(f"models:/{GOOD}@champion", world.settings).manifest is not None
    world.undo()
    assert world.notices() == []
