"""The gate stops every defect that we could think of, and lets honest retrains through."""

import dataclasses
import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from raymlops.errors import SpecError
from raymlops.evaluation import compatibility, gate, leakage
from raymlops.evaluation.verdict import Verdict
from raymlops.lifecycle.govern import gate_evidence, scoring
from raymlops.models import variants
from raymlops.models.session import open_session
from raymlops.specs.document import parse_document
from raymlops.specs.evaluation import GateSpec, LeakSpec, LimitSpec
from tests import small_models

pytestmark = pytest.mark.slow  # files are exported, quantised and timed

TEST = small_models.draw_flights(6000, seed=1)
TABLE = small_models.to_table(*TEST)
SAMPLE = gate_evidence.Sample({name: values[:2000] for name, values in TEST[0].items()}, TEST[1][:2000])


def _examine(path, weights, table=TABLE, sample=SAMPLE, parity=True):
    """The evidence that a pipeline would gather of a file."""
    partial = None
    if not gate_evidence.gather_evidence(path.stem, path, None).unsafe:
        session = open_session(path)
        layout = scoring.layout_of(scoring.features_of(session.contract).target)
        partial = scoring.observe_table(table, {"m": session}, layout, ["carrier"])["m"]
    expected = small_models.predict(weights, sample.columns) if parity else None
    return gate_evidence.gather_evidence(path.stem, path, partial, sample, expected, seconds=0.02)


@pytest.fixture(scope="module")
def weights():
    return small_models.fit(*small_models.draw_flights(8000, seed=0))


@pytest.fixture(scope="module")
def champion(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("champion") / "champion.onnx"
    path.write_bytes(small_models.build_model(weights))
    return _examine(path, weights)


def _write(tmp_path, data, name="candidate.onnx"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def _failed(verdict):
    return {check.name for check in verdict.failures}


def test_a_clean_first_model_passes_without_a_champion(champion):
    verdict = gate.judge(champion, None, GateSpec(limits={"roc_auc": LimitSpec(min=0.6)}))
    assert verdict.passed, str(verdict)
    assert "no champion" in str(verdict)


@pytest.mark.parametrize("rows", [300, 6000])
def test_clean_retrains_are_not_blocked(weights, tmp_path, rows):
    assert retrain(weights, tmp_path, rows, 4) == []  # twenty in tests/survival


def retrain(weights, tmp_path, rows, count):
    """The verdicts that block one of so many honest retrains."""
    table, blocked = TABLE.slice(0, rows), []
    held = _examine(_write(tmp_path, small_models.build_model(weights), "held.onnx"), weights, table)
    for seed in range(1, count + 1):
        weights = small_models.fit(*small_models.draw_flights(8000, seed=100 + seed), seed=seed)
        candidate = _examine(_write(tmp_path, small_models.build_model(weights)), weights, table)
        verdict = gate.judge(candidate, held, GateSpec())
        if not verdict.passed:
            blocked.append(str(verdict))
    return blocked


def test_an_opset_that_the_runtime_does_not_know_is_stopped(champion, weights, tmp_path):
    candidate = _examine(_write(tmp_path, small_models.build_model(weights, opset=99)), weights)
    assert {"content", "runs"} <= _failed(gate.judge(candidate, champion))


def test_dropped_standardisation_is_stopped_by_parity_and_by_quality(champion, weights, tmp_path):
    candidate = _examine(_write(tmp_path, small_models.build_model(weights, standardise=False)), weights)
    assert {"parity", "roc_auc gain on the champion"} <= _failed(gate.judge(candidate, champion))
    alone = dataclasses.replace(candidate, parity=None)
    assert "roc_auc gain on the champion" in _failed(gate.judge(alone, champion))


def test_dropped_imputation_is_stopped_by_its_nan_answers(champion, weights, tmp_path):
    candidate = _examine(_write(tmp_path, small_models.build_model(weights, impute=False)), weights)
    assert {"finite answers", "parity"} <= _failed(gate.judge(candidate, champion))


def test_swapped_classes_are_stopped_with_and_without_a_champion(champion, weights, tmp_path):
    candidate = _examine(_write(tmp_path, small_models.build_model(weights, swapped=True)), weights)
    assert {"parity", "roc_auc against guessing"} <= _failed(gate.judge(candidate, None))
    assert "roc_auc gain on the champion" in _failed(gate.judge(candidate, champion))


def test_swapped_class_names_are_stopped_by_the_contract(champion, weights, tmp_path):
    data = small_models.build_model(weights, swapped=True, classes=("late", "on time"))
    candidate = _examine(_write(tmp_path, data), weights, parity=False)
    assert "contract" in _failed(gate.judge(candidate, champion))


def test_an_overflow_of_half_precision_is_stopped(champion, weights, tmp_path):
    source = _write(tmp_path, small_models.build_model(weights, scale=1e6), "wide.onnx")
    assert gate.judge(_examine(source, weights), champion).passed
    made = variants.make_variant("fp16", source, tmp_path / "fp16.onnx")
    spec = GateSpec().model_copy(update={"parity": GateSpec().variant_parity})
    verdict = gate.judge(_examine(made.path, weights), champion, spec)
    assert "parity" in _failed(verdict), str(verdict)


def test_honest_half_precision_and_int8_pass_as_variants(champion, weights, tmp_path):
    source = _write(tmp_path, small_models.build_model(weights), "source.onnx")
    spec = GateSpec().model_copy(update={"parity": GateSpec().variant_parity})
    for kind in variants.KINDS:
        made = variants.make_variant(kind, source, tmp_path / f"{kind}.onnx", rows=SAMPLE.columns)
        verdict = gate.judge(_examine(made.path, weights), champion, spec)
        assert verdict.passed, str(verdict)


def test_a_regressed_slice_is_stopped_though_the_whole_is_within_the_margin(champion, weights, tmp_path):
    candidate = _examine(
        _write(tmp_path, small_models.build_model(weights, deaf_to="WN")), weights, parity=False
    )
    verdict = gate.judge(candidate, champion, GateSpec(margin=0.2))
    assert _failed(verdict) == {"roc_auc gain of the worst slice"}
    assert "carrier=WN" in verdict.failures[0].text


def test_a_leaked_label_is_stopped_by_the_column_and_by_the_leap(champion, tmp_path):
    def leak(drawn, seed):
        noise = np.random.default_rng(seed).normal(size=len(drawn[1]))
        return {**drawn[0], "arrival_delay": (drawn[1] * 60 + noise).astype(np.float32)}, drawn[1]

    weights = small_models.fit(*leak(small_models.draw_flights(8000, seed=0), 2))
    columns, labels = leak(TEST, 3)
    sample = gate_evidence.Sample({name: values[:2000] for name, values in columns.items()}, labels[:2000])
    path = _write(tmp_path, small_models.build_model(weights))
    candidate = _examine(path, weights, small_models.to_table(columns, labels), sample)
    assert _failed(gate.judge(candidate, None)) == {"single column"}
    # The same rows for both, as the pipeline scores them.
    partials = scoring.observe_table(
        small_models.to_table(columns, labels),
        {"new": open_session(path), "old": open_session(small_models.build_model(small_models.fit(*TEST)))},
        candidate.partial.layout,
    )
    new, old = (dataclasses.replace(champion, partial=partials[name]) for name in ("new", "old"))
    assert "cut of the error" in _failed(gate.judge(new, old))
    allowed = GateSpec(leak=LeakSpec(column=1, error_cut=1))
    assert gate.judge(new, old, allowed).passed


def test_a_new_required_column_is_stopped_and_a_new_optional_one_is_not(champion, weights):
    column = {"name": "gate", "kind": "string", "feature": "category", "shape": [-1]}
    contract = dict(champion.contract)
    for nullable in (False, True):
        changed = {**contract, "columns": [*contract["columns"], {**column, "nullable": nullable}]}
        verdict = gate.judge(dataclasses.replace(champion, contract=changed), champion)
        assert ("contract" in _failed(verdict)) is not nullable


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "string"}, "was number and is now string"),
        ({"nullable": False}, "could be missing and is now required"),
    ],
)
def test_a_changed_column_breaks_callers(weights, change, said):
    old = small_models.describe(weights)
    new = {**old, "columns": [{**old["columns"][0], **change}, *old["columns"][1:]]}
    assert said in compatibility.find_breaking_changes(new, old)[0]
    assert compatibility.find_breaking_changes({**old, "columns": old["columns"][1:]}, old) == ()


def test_weights_kept_outside_and_foreign_operators_are_stopped(weights, tmp_path):
    model = small_models.read_model(small_models.build_model(weights))
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "first")
    first.ClearField("raw_data")
    first.data_location = TensorProto.EXTERNAL
    first.external_data.add(key="location", value="../../etc/passwd")
    outside = _write(tmp_path, model.SerializeToString(), "outside.onnx")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    node = helper.make_node("Evil", ["x"], ["y"], domain="acme")
    foreign = helper.make_model(
        helper.make_graph([node], "g", [x], [y]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)],
        ir_version=10,
    )
    for path in (outside, _write(tmp_path, foreign.SerializeToString(), "foreign.onnx")):
        verdict = gate.judge(gate_evidence.gather_evidence("candidate", path, None), None)
        assert "content" in _failed(verdict)


def test_limits_of_cost_stop_what_is_over_them_and_what_nobody_measured(champion):
    spec = GateSpec(latency_ms=1e-6, throughput=1e12, size_mb=1e-6)
    assert {"latency ms", "rows a second", "size MB"} == _failed(gate.judge(champion, None, spec))
    unmeasured = dataclasses.replace(champion, latency_ms=None)
    verdict = gate.judge(unmeasured, None, GateSpec(latency_ms=100))
    assert [check.text for check in verdict.failures] == ["not measured"]


def test_fixed_limits_stop_on_either_side(champion):
    limits = {"roc_auc": LimitSpec(min=0.99), "log_loss": LimitSpec(max=0.01)}
    assert {"roc_auc minimum", "log_loss maximum"} == _failed(
        gate.judge(champion, None, GateSpec(limits=limits))
    )


def test_a_limit_of_every_slice_names_the_slice(champion, weights, tmp_path):
    path = _write(tmp_path, small_models.build_model(weights, deaf_to="WN"))
    candidate = _examine(path, weights, parity=False)
    verdict = gate.judge(candidate, None, GateSpec(slice_limits={"roc_auc": LimitSpec(min=0.62)}))
    assert _failed(verdict) == {"roc_auc of every slice"}
    assert "carrier=WN" in verdict.failures[0].text


def test_a_comparison_on_other_rows_is_stopped(champion, weights, tmp_path):
    path = _write(tmp_path, small_models.build_model(weights))
    candidate = _examine(path, weights, small_models.to_table(*small_models.draw_flights(5000, seed=5)))
    assert "same rows as the champion" in _failed(gate.judge(candidate, champion))


def test_an_unknown_metric_gets_the_near_one(champion):
    with pytest.raises(SpecError, match="did you mean 'roc_auc'"):
        parse_document("metric: rocauc", GateSpec)
    with pytest.raises(SpecError, match="Unknown metric of a binary task 'rmse'"):
        gate.judge(champion, None, GateSpec(metric="rmse"))


def test_a_verdict_survives_json_and_reads_well(champion):
    verdict = gate.judge(champion, champion, GateSpec(latency_ms=1e-6))
    held = Verdict.from_json(json.loads(json.dumps(verdict.to_json(), allow_nan=False)))
    assert held == verdict
    assert held.sha256 == verdict.sha256
    assert "blocked by 1 check" in str(verdict)
    assert "FAIL  latency ms" in str(verdict)


def test_columns_that_tell_little_alone_are_not_taken_for_leaks():
    columns, labels = TEST
    unique = np.array([f"flight {row}" for row in range(len(labels))], dtype=object)
    found = leakage.measure_columns({**columns, "id": unique}, labels, "binary")
    assert 0.45 < found["id"] < 0.55
    assert all(value < 0.8 for value in found.values())


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_leaks_of_other_tasks_are_found(task):
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 4000) if task == "multiclass" else random.normal(size=4000)
    columns = {"leak": (labels * 3.0).astype(np.float32), "noise": random.normal(size=4000)}
    found = leakage.measure_columns(columns, labels, task)
    assert found["leak"] > 0.99
    assert found["noise"] < 0.05
