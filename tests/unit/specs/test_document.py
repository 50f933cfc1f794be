import json
import pathlib

import jsonschema
import pytest

from raymlops.errors import NotFoundError, RenamedWarning, SpecError
from raymlops.specs.document import (
    Document,
    parse_document,
    read_document,
    to_first_names,
    update_recorded,
    validate_document,
)
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.graph import GraphSpec
from raymlops.specs.json_schema import make_schema
from raymlops.specs.serving import ServingSpec

SPEC = """\
name: toy
dataset:
  reader: csv
  path: rows.csv
features:
  target: {column: y}
  numbers: [a]
"""


def mistake_in(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_document(text, ExperimentSpec, source="spec.yaml", overrides=overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SPEC + "trainig:\n  lr: 1\n", "spec.yaml:8: Unknown key 'trainig'; did you mean 'training'?"),
        (
            SPEC + "training:\n  lr: 0.1\n  epoch: 3\n",
            "spec.yaml:10: Unknown key 'epoch'; did you mean 'epochs'?",
        ),
        (
            SPEC + "contract:\n  columns:\n    a: {typ: integer}\n",
            "spec.yaml:10: Unknown key 'typ'; did you mean 'type'?",
        ),
        (
            SPEC + "search:\n  space:\n    lr: {lo: 3, high: 2}\n",
            "spec.yaml:10: Unknown key 'lo'; did you mean 'low'?",
        ),
        (
            SPEC + "search:\n  space:\n    lrr: {low: 1, high: 2}\n",
            "spec.yaml:10: search.space.lrr: Unknown parameter 'lrr'; did you mean 'lr'?",
        ),
        (
            SPEC.replace("path: rows.csv", "path: rows.csv\n  joins:\n    - {table: {path: x}, key: [a]}"),
            "Unknown key 'key'; did you mean 'keys'?",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_file_line_and_the_nearest_known_key(text: str, expected: str) -> None:
    assert expected in mistake_in(text)


def test_keys_of_one_kind_of_feature_are_offered_only_for_that_kind() -> None:
    own = SPEC.replace("numbers: [a]", "columns:\n    b:\n      kind: number\n      cliip: 3")
    message = mistake_in(own)
    assert "spec.yaml:10: Unknown key 'cliip'; did you mean 'clip'?" in message
    assert "max_values" not in message
    assert "(under 'features.columns.b')" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training: {epochs: many}", "spec.yaml:8: training.epochs: Input should be a valid integer"),
        ("training: {epochs: 0}", "greater than or equal to 1, got 0"),
        ("training: {metric: roc_au}", "Unknown metric 'roc_au'; did you mean 'roc_auc'?"),
        ("training: {workers: 2, min_workers: 3}", "min_workers: 3 is above workers, which is 2"),
        ("training: {workers: 8, batch_size: 4}", "4 rows a step are too few for 8 workers"),
        ("training: {labels: {raymlops/market: in(spot}}", "expected value, !value, in(a, b) or !in(a, b)"),
        ("split: {by: tiem}", "Unknown by 'tiem'; did you mean 'time'?"),
        ("split: {by: time}", "spec.yaml:8: key 'split.column' is missing; add it"),
        ("split: {by: random, fractions: [1, 1, 1]}", "spec.yaml:8: split.fractions: [1.0, 1.0, 1.0] must"),
        ("contract: {columns: {a: {min: 3, max: 1}}}", "contract.columns.a: min 3.0 is above max 1.0"),
        ("search: {space: {lr: {low: 3, high: 2}}}", "low 3.0 is not below high 2.0"),
        ("search: {space: {lr: {low: 0, high: 2, log: true}}}", "log needs low above 0"),
        ("search: {space: {lr: {choices: []}}}", "choices is empty"),
        ("search: {algorithm: grid, space: {lr: {low: 1, high: 2}}}", "grid needs choices"),
        ("name: again", "spec.yaml:8: key 'name' is given twice; keep one"),
    ],
)
def test_an_impossible_value_is_named_with_its_key_and_itself(text: str, expected: str) -> None:
    assert expected in mistake_in(SPEC + text + "\n")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("digest: 0", "nodes.a.digest: Input should be a valid string, got 0"),
        ("timeout_s: -1", "nodes.a.timeout_s: Input should be greater than 0, got -1"),
        (
            "resources: {memory_gb: 1}",
            "Unknown key 'memory_gb'; did you mean 'memory_mb'.*under 'nodes.a.resources'",
        ),
    ],
)
def test_a_mistake_is_named_where_a_kind_has_a_key_of_its_own_name(key: str, told: str) -> None:
    text = f"nodes:\n  a:\n    kind: model\n    model: m.onnx\n    {key}\noutputs: [a]"
    with pytest.raises(SpecError, match=f"text:5: {told}"):
        parse_document(text, GraphSpec)


def test_a_metric_of_another_task_is_refused() -> None:
    text = SPEC.replace("{column: y}", "{column: y, task: regression}") + "training: {metric: roc_auc}\n"
    assert "spec.yaml:8: training.metric: Unknown metric of a regression task 'roc_auc'" in mistake_in(text)


def test_a_column_has_one_place_and_is_not_its_own_answer() -> None:
    assert "column 'a' is named twice" in mistake_in(SPEC.replace("[a]", "[a, a]"))
    assert "'y' is also a feature" in mistake_in(SPEC.replace("[a]", "[y]"))
    assert "no column is named" in mistake_in(SPEC.replace("[a]", "[]"))


def test_every_mistake_gets_its_own_line() -> None:
    lines = mistake_in(SPEC + "training: {epochs: 0, lr: -1}\n").splitlines()
    assert len(lines) == 2


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "a: [1\n"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    assert mistake_in(text).startswith("spec.yaml")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match="No file"):
        read_document(tmp_path / "none.yaml", ExperimentSpec)
    with pytest.raises(SpecError, match="Cannot read"):
        read_document(tmp_path, ExperimentSpec)


@pytest.mark.parametrize(
    "override",
    [
        "contract.columns.Solar.R.max=400",  # a key that the document has
        "contract.columns.'Solar.R'.max=400",
        'contract.columns."Solar.R".max=400',
        "contract.columns.`a=b.c`.max=400",
        "contract.columns.a.b.max=400",  # a key that it lacks
        "contract.columns.a.b={max: 400}",
    ],
)
def test_an_override_reaches_a_name_with_dots(override: str) -> None:
    text = SPEC + "contract: {columns: {Solar.R: {type: number}}}\n"
    columns = parse_document(text, ExperimentSpec, overrides=[override]).contract.columns
    assert [rule.max for rule in columns.values()][-1] == 400
    assert set(columns) in ({"Solar.R"}, {"Solar.R", "a=b.c"}, {"Solar.R", "a.b"})


def test_an_override_whose_last_key_is_misspelt_says_so() -> None:
    with pytest.raises(SpecError, match="did you mean 'max'"):
        parse_document(SPEC, ExperimentSpec, overrides=["contract.columns.x.mx=400"])
    assert parse_document(SPEC, ExperimentSpec, overrides=["dataset.derive.a.b=x + 1"]).dataset.derive == {
        "a.b": "x + 1"
    }


def test_the_schema_for_editors_lists_metrics_and_readers() -> None:
    schema = make_schema()
    validator = jsonschema.Draft202012Validator(schema)
    text = {"name": "m", "dataset": {"reader": "csv", "path": "x"}, "features": "auto", "target": "y"}
    assert validator.is_valid(text)
    assert validator.is_valid({**text, "dataset": {"reader": "own.module:read"}})
    assert not validator.is_valid({**text, "dataset": {"reader": "cvs", "path": "x"}})
    assert validator.is_valid({**text, "gate": {"metric": "roc_auc", "limits": {"roc_auc": {"min": 0.5}}}})
    assert not validator.is_valid({**text, "gate": {"limits": {"auc": {"min": 0.5}}}})
    assert not validator.is_valid({**text, "training": {"metric": "auc"}})


def test_overrides_change_values_and_make_the_parts_they_need() -> None:
    overrides = ["training.lr=0.5", "search.trials=3", "dataset.path=[a.csv, b.csv]"]
    spec = parse_document(SPEC, ExperimentSpec, overrides=overrides)
    assert (spec.training.lr, spec.search.trials, spec.dataset.path) == (0.5, 3, ("a.csv", "b.csv"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs", "not of the form key.path=value"),
        ("training.epohcs=3", "did you mean 'epochs'?"),
        ("training.epochs=x", "training.epochs"),
        ("name.x=1", "'name' is 'toy', not a mapping"),
        ("search.trials=[1", "is not a YAML value"),
    ],
)
def test_a_wrong_override_is_explained(override: str, expected: str) -> None:
    assert expected in mistake_in(SPEC, override)


GRAPH = """\
nodes:
  m: {kind: model, model: a.onnx, resources: {cpus: 0.5, memory_mb: 512, replicas: 1, max_replicas: 3,
      target_ongoing: 4, max_queued: 9, batch_rows: 64, batch_wait_ms: 3}}
  n: {kind: model, model: b.onnx}
  s: {kind: shadow, primary: m, mirror: n, max_pending: 3}
outputs: [s]
"""


def test_names_of_before_are_read_with_a_warning_that_names_the_new() -> None:
    with pytest.warns(RenamedWarning) as told:
        graph = parse_document(GRAPH, GraphSpec)
    resources, shadow = graph.nodes["m"].resources, graph.nodes["s"]
    found = (resources.target, resources.queue, resources.max_rows, resources.wait_ms, shadow.queue)
    assert found == (4, 9, 64, 3, 3)
    assert {str(warning.message).split(";")[0] for warning in told} == {
        "target_ongoing is now called target",
        "max_queued is now called queue",
        "batch_rows is now called max_rows",
        "batch_wait_ms is now called wait_ms",
        "max_pending is now called queue",
    }
    with pytest.warns(RenamedWarning, match="memory_gb is now called memory_mb, with 1536.0 for 1.5"):
        assert ServingSpec(models={"m": {"source": "m.onnx"}}, memory_gb=1.5).memory_mb == 1536


def test_a_mistake_under_a_name_of_before_has_its_line_and_the_new_name() -> None:
    with pytest.warns(RenamedWarning):
        assert mistake_in(SPEC + "training:\n  resize_seconds: -1\n").startswith(
            "spec.yaml:9: training.resize_s: "
        )
    both = mistake_in(SPEC + "training:\n  resize_seconds: 1\n  resize_s: 2\n")
    assert both.startswith(
        "spec.yaml:8: training: resize_seconds is the old name of resize_s; give resize_s alone"
    )


def test_schemas_show_the_new_names_only() -> None:
    for kind in (ExperimentSpec, ServingSpec, GraphSpec):
        text = json.dumps(kind.model_json_schema())
        for document in list_documents(Document):
            assert not any(f'"{old}"' in text for old in document.renamed), document


def list_documents(kind: type[Document]) -> list[type[Document]]:
    return [kind, *(inner for below in kind.__subclasses__() for inner in list_documents(below))]


def test_what_was_recorded_under_names_of_before_is_brought_up_to_date_without_a_word() -> None:
    recorded = {"models": {"m": {"source": "m.onnx"}}, "memory_gb": 2.0}
    spec = ServingSpec(models={"m": {"source": "m.onnx"}}, memory_mb=2048)
    assert update_recorded(recorded, ServingSpec) == spec.model_dump(mode="json")
    assert update_recorded({"v": 1}, ServingSpec) == {"v": 1}  # of something else
    assert validate_document(recorded, ServingSpec, recorded=True) == spec
    assert to_first_names(spec)["memory_gb"] == 2.0
    assert "memory_mb" not in to_first_names(spec)
