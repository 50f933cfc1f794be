"""Events are CloudEvents whatever they hold: by the official JSON schema, and by the rules that it does not have."""

import json
import pathlib
import re
import unicodedata
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.errors import SpecError
from raymlops.events.event import MAX_BYTES, TYPES, Event, from_cloud_event, to_cloud_event
from raymlops.events.message import (
    from_json,
    start_message,
    to_cloud_document,
    to_json,
    write_text,
    write_title,
)

SCHEMA = json.loads((pathlib.Path(__file__).parents[2] / "cloudevents.json").read_text(encoding="utf-8"))
ANY = st.text(st.characters(), max_size=60)  # control characters and unpaired surrogates too
NUMBERS = st.dictionaries(ANY, st.floats() | st.integers(-(2**70), 2**70), max_size=4)
DETAILS = st.recursive(
    st.none() | st.booleans() | st.floats() | ANY | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.builds(
    Event,
    type=st.sampled_from(sorted(TYPES)),
    application=ANY,
    subject=ANY,
    what=ANY,
    severity=st.sampled_from(["page", "note"]),
    who=ANY,
    why=ANY,
    next=ANY,
    model=ANY,
    version=ANY,
    segment=ANY,
    numbers=NUMBERS,
    details=st.dictionaries(ANY, DETAILS, max_size=3),
)


def require_cloud_event(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMA)
    for name, value in document.items():
        assert re.fullmatch(r"[a-z0-9]{1,20}", name)
        if name == "data":
            continue
        assert isinstance(value, str)
        assert value
        assert all(unicodedata.category(sign) not in ("Cc", "Cs") for sign in value), name
    assert document["specversion"] == "1.0"
    assert re.fullmatch(r"[A-Za-z0-9/%._~-]+", document["source"])  # a URI reference
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", document["time"])  # RFC 3339
    text = json.dumps(document, allow_nan=False)
    assert len(text.encode()) <= MAX_BYTES


@given(EVENTS)
@settings(max_examples=60, deadline=None)
def test_every_event_is_a_cloud_event_and_comes_back_from_the_spool(event: Event) -> None:
    require_cloud_event(to_cloud_event(event))
    message = start_message(event, 5.0).fold(Event(event.type, "a", "b", "c"))
    require_cloud_event(to_cloud_document(message))
    kept = from_json(json.loads(json.dumps(to_json(message))))
    assert to_cloud_document(kept) == to_cloud_document(message)
    title, text = write_title(kept), write_text(kept)
    assert "\n" not in title
    assert len(title) <= 150
    assert title.encode()
    assert text.encode()


def test_large_details_are_left_out_and_the_sentence_and_command_stay() -> None:
    event = Event(
        "raymlops.alarm.raised", "app", "app/1", "score moved", next="raymlops alarms show app/1",
        numbers={"mean": np.float32(0.5), "rows": np.int64(7)}, details={"rows": "x" * MAX_BYTES},
    )  # fmt: skip
    data = to_cloud_event(event)["data"]
    assert (data["what"], data["next"]) == ("score moved", "raymlops alarms show app/1")
    assert data["numbers"] == {"mean": 0.5, "rows": 7}
    assert data["details"] == {"left_out": "more than 64 KiB"}


def test_a_type_that_the_product_does_not_have_gets_the_near_one() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'raymlops\.alarm\.raised'"):
        Event("raymlops.alarm.raise", "app", "app/1", "x")
    with pytest.raises(SpecError, match="Unknown severity 'pages'; did you mean 'page'"):
        Event("raymlops.alarm.raised", "app", "app/1", "x", severity="pages")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="not an event"):
        from_cloud_event({"type": "raymlops.alarm.raised"})
