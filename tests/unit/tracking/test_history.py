"""The record of alias changes: what was done to it shows."""

import concurrent.futures
import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from raymlops.errors import NotFoundError
from raymlops.settings import Settings
from raymlops.tracking import history, history_writer, lease, store
from raymlops.tracking.history import Entry


def _chain(count):
    entries, parent = [], ""
    for index in range(1, count + 1):
        entry = Entry(index, "2026-01-01T00:00:00+00:00", "ann", "promote", "champion", str(index), "", "x")
        entry = dataclasses.replace(entry, parent=parent, before=str(index - 1) if index > 1 else "")
        entries.append(entry)
        parent = entry.digest
    return {history.key_of(entry): entry.to_text() for entry in entries}


def _edited(held, index, **change):
    key = sorted(held)[index]
    return {**held, key: json.dumps({**json.loads(held[key]), **change})}


def test_an_untouched_record_holds():
    record = history.verify(_chain(5), {"champion": "5"})
    assert record.problems == ()
    assert [entry.version for entry in record.entries] == ["1", "2", "3", "4", "5"]
    assert history.verify({}).problems == ()


@pytest.mark.parametrize("change", [{"who": "bob"}, {"version": "9"}, {"why": "y"}, {"forced": True}])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_every_edit_shows(index, change):
    problems = history.verify(_edited(_chain(5), index, **change)).problems
    assert any("was changed after it was written" in problem for problem in problems)


def test_an_edit_under_a_new_key_breaks_the_chain():
    held = _chain(5)
    key = sorted(held)[2]
    forged = Entry(**{**json.loads(held.pop(key)), "who": "bob"})
    held[history.key_of(forged)] = forged.to_text()
    assert any("does not follow" in problem for problem in history.verify(held).problems)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_dropped_entry_shows(index):
    held = _chain(5)
    del held[sorted(held)[index]]
    assert any("dropped or moved" in problem for problem in history.verify(held).problems)


def test_a_dropped_last_entry_shows_by_the_anchor_and_by_the_alias():
    held = _chain(5)
    last = Entry(**json.loads(held.pop(sorted(held)[-1])))
    problems = history.verify(held, {"champion": "5"}, [f"5:{last.digest}"]).problems
    assert len(problems) == 2
    assert history.verify(held).problems == ()  # the chain alone cannot know


def test_swapped_entries_show():
    held = _chain(5)
    second, third = (Entry(**json.loads(held.pop(key))) for key in sorted(held)[1:3])
    for entry in (dataclasses.replace(second, index=3), dataclasses.replace(third, index=2)):
        held[history.key_of(entry)] = entry.to_text()
    assert history.verify(held).problems


def test_an_unreadable_entry_shows():
    held = _chain(2)
    held[sorted(held)[0]] = "not json"
    assert any("cannot be read" in problem for problem in history.verify(held).problems)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return Settings.from_env({"RAYMLOPS_HOME": str(home), "USER": "ann"})


@pytest.fixture(scope="module")
def client(settings):
    return store.connect(settings)


@pytest.fixture
def model(client, request):
    name = request.node.name.replace("[", "-").replace("]", "")
    client.create_registered_model(name)
    for _ in range(4):
        client.create_model_version(name, source="file:///nowhere")
    return name


@pytest.fixture
def move(client, settings, model):
    def move(version, **more):
        return history_writer.move_alias(
            client, model, "champion", str(version), settings=settings, why="better", **more
        )

    return move


@pytest.fixture
def read(client, settings, model):
    return lambda: history.read_history(client, model, settings)


def test_moves_are_recorded_with_the_registry_and_hold(client, model, move, read):
    for version in (1, 2):
        move(version)
    entry = move(3, forced=True, verdict="ab" * 32)
    record = read()
    assert record.problems == ()
    assert [(e.before, e.version) for e in record.entries] == [("", "1"), ("1", "2"), ("2", "3")]
    assert record.entries[-1] == entry
    assert "forced past the gate" in str(entry)
    assert str(client.get_model_version_by_alias(model, "champion").version) == "3"


def test_tampering_in_the_store_shows(client, model, move, read):
    for version in (1, 2, 3):
        move(version)
    tags = {k: v for k, v in client.get_registered_model(model).tags.items() if k.startswith(history.TAG)}
    key = sorted(tags)[1]
    client.set_registered_model_tag(model, key, tags[key].replace("better", "worse"))
    assert "entry 2 was changed" in read().problems[0]
    client.delete_registered_model_tag(model, key)
    assert any("entry 2 is missing" in problem for problem in read().problems)


def test_a_dropped_last_move_shows_though_the_alias_was_put_back(client, model, move, read):
    move(1)
    last = move(2)
    client.delete_registered_model_tag(model, history.key_of(last))
    client.set_registered_model_alias(model, "champion", "1")
    assert any("entry 2 is missing" in problem for problem in read().problems)


def test_an_alias_that_was_moved_past_the_record_shows(client, model, move, read):
    move(1)
    client.set_registered_model_alias(model, "champion", "2")
    assert "record says version 1" in read().problems[0]


def test_a_rollback_goes_to_the_version_before_and_a_second_one_further(client, model, move, read):
    for version in (1, 2, 3):
        move(version)
    seen = []
    for _ in range(2):
        version = history.find_previous(read(), "champion")
        move(version, action="rollback")
        seen.append(version)
    assert seen == ["2", "1"]
    with pytest.raises(NotFoundError, match="no version before"):
        history.find_previous(read(), "champion")
    assert read().problems == ()


def test_two_writers_at_once_leave_one_chain(client, model, move, read):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: move(n % 4 + 1), range(8)))
    record = read()
    assert len(record.entries) == 8
    assert record.problems == ()
    assert not any(key.startswith(lease.ANNOUNCED) for key in client.get_registered_model(model).tags)


def test_a_writer_that_died_does_not_hold_up_the_next(client, model, move, read, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    client.set_registered_model_tag(model, f"{lease.ANNOUNCED}1000.000.deadbeef", "writing")
    move(1)
    assert read().problems == ()


def test_a_version_that_is_not_there_is_not_recorded(client, model, move, read):
    with pytest.raises(NotFoundError, match="no version 99"):
        move(99)
    assert read().entries == ()


@hypothesis.given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*Entry.__dataclass_fields__, "signature"]), inner, max_size=4)
        ),
        max_leaves=10,
    ),
    st.booleans(),
)
def test_whatever_stands_in_an_entrys_place_is_told_of(value, over):
    held = _chain(3)
    key = sorted(held)[1]
    entry = json.loads(held[key])
    changed = {**entry, **value} if over and isinstance(value, dict) else value
    held[key] = json.dumps(changed)
    same = changed == entry and json.dumps(changed) == json.dumps(entry)
    record = history.verify(held, {"champion": "3"})
    assert bool(record.problems) != same
    assert {**record.aliases, **record.manifests, **record.anchors}


@pytest.mark.parametrize("text", ["[" * 4900, '{"a":' * 900, "", "null", "NaN", "1e999", "9" * 4900])
def test_a_tag_that_is_no_entry_is_told_of(text):
    held = {**_chain(2), f"{history.TAG}000003.{'0' * 16}": text}
    assert any("cannot be read" in problem for problem in history.verify(held).problems)
