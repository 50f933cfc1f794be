"""The stages of a training, from a table to a version: plain functions of frozen values, with their declarations.

A stage takes the spec and outputs of earlier stages, by position, and returns named values; its keyword-only
arguments say how it runs, and do not change its outputs. The parts of the spec that it reads are declared beside it.
So a runner can key a stage by `Stage.digest` and the digests of its inputs, store its outputs (stage_outputs.py), and
run it alone. Caches nothing, and knows no order except that of its values: develop.py runs the stages as one job.
"""

import dataclasses
import hashlib
import inspect
import json
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from raymlops import __version__
from raymlops.data import fitting, rare_classes, sources, split_rows, splits
from raymlops.data.split_rows import SplitRows
from raymlops.errors import RaymlopsError, SpecError
from raymlops.features import FittedFeatures, packing_of
from raymlops.lifecycle.train import run_recorder, winners
from raymlops.lifecycle.train.distillation import School, distill
from raymlops.lifecycle.train.learner_board import rank_bags, read_slices
from raymlops.lifecycle.train.resolve_features import resolve_features
from raymlops.lifecycle.train.row_encoding import encode_rows, find_formulas
from raymlops.lifecycle.train.target_fitting import fit_by_target, fit_folds
from raymlops.lifecycle.train.verify_export import Proof, prove_model
from raymlops.models import encoder as encoders
from raymlops.models import parity
from raymlops.models.export import export_model, to_bytes
from raymlops.specs import defaults
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import candidates, demand, learners, networks
from raymlops.training.blends import Winner, to_single
from raymlops.training.latency_limit import LatencyLimit, keep_within
from raymlops.training.learners import Job, learner_of
from raymlops.training.packed import PackedSplit, pack_split
from raymlops.training.replay import Replayed
from raymlops.training.search import run_search
from raymlops.training.search_state import SearchState
from raymlops.training.trials import SearchResult, TrialObserver
from raymlops.training.warm_start import NOTHING_KNOWN, SearchPrior

Profile = dict[str, Any]
"""Statistics of each raw column on the training rows, as JSON."""
Ranking = dict[str, Any]
"""The learners of a search on the same rows, as JSON; empty for one learner."""


class Scanned(NamedTuple):
    rows: SplitRows


def scan(spec: ExperimentSpec) -> Scanned:
    """Scan the dataset once: contract, fingerprint, and what the split must learn. Raises DataError, NotFoundError,
    SpecError."""
    rows = split_rows.scan_rows(spec.dataset, spec.contract, spec.split, spec.features)
    rare_classes.require(rows.scan, spec.features.target.task)
    return Scanned(rows)


class Fitted(NamedTuple):
    features: FittedFeatures
    profile: Profile


def fit(spec: ExperimentSpec, rows: SplitRows) -> Fitted:
    """Measure the training rows, and decide how each column is encoded. Raises DataError."""
    spec = defaults.insert(spec, defaults.choose_encodings(spec, rows.scan.fingerprint.rows["train"]))
    with sources.reading(rows.table):
        spec = resolve_features(spec, rows)
        inputs, formulas = find_formulas(rows, spec.features)
        measured = fitting.measure_columns(rows.of("train"), spec.features, formulas)
        features = fitting.fit_features(measured, spec.features, rows.contract, inputs)
        features = fit_by_target(rows, features, spec.features, spec.training.sample_weights)
    profile = {name: value.to_json() for name, value in measured.items() if name != "types"}
    return Fitted(features, profile)


class Encoded(NamedTuple):
    encoder: bytes
    """ONNX: raw columns -> packed tensors."""
    train: PackedSplit
    validation: PackedSplit


def encode(spec: ExperimentSpec, rows: SplitRows, features: FittedFeatures) -> Encoded:
    """Encode and pack the splits that trainings read, as the tensors that their learners read; the test split is
    measured once, from its raw rows."""
    tensors = candidates.read_for(spec)
    model = to_bytes(encoders.build_encoder(features, tensors))
    weights = spec.training.sample_weights
    with sources.reading(rows.table):
        folds = fit_folds(rows, features, weights, tensors)
        packed = {
            name: pack_split(
                encode_rows(rows.of(name), features, model, weights, folds if name == "train" else None),
                rows.scan.fingerprint.rows[name],
                packing_of(features).only(tensors),
                spec.training.resident_bytes,
            )
            for name in splits.SPLITS
            if name != "test"
        }
    return Encoded(model, packed["train"], packed["validation"])


_OF_A_TRIAL = ("training.", "network.options.")


def decide(
    spec: ExperimentSpec,
    features: FittedFeatures,
    rows: Mapping[str, int],
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[defaults.Choice, ...]:
    """What the spec leaves open, from the rows of each split and the fitted columns. Raises SpecError for what no
    learner can do with them."""
    packing = packing_of(features)
    facts = defaults.Facts(
        train=rows["train"],
        validation=rows["validation"],
        test=rows.get("test", 0),
        columns=packing.numeric + len(packing.categories),
        task=features.target.task,
        rarest=min(features.target.shares, default=1.0),
    )
    workers = _choose_workers(spec, features, facts)
    if workers:
        spec = defaults.insert(spec, workers)
    if spec.search.learners is not None:
        return (*workers, *_decide_of_learners(spec, features, facts, tell))
    learners.check_size(spec, packing, facts.train)
    narrowed = _narrow_space(spec, features, facts, tell)
    spec = defaults.insert(spec, narrowed)
    if spec.training.learner != "network":
        options = _choose_options(spec, facts)
        chosen = defaults.choose(spec, facts, learners.dimensions_of(spec))
        return (*workers, *narrowed, *options, *chosen)
    names = networks.options_of(spec.network.name)
    return (*narrowed, *defaults.choose(spec, facts, defaults.NETWORK_SPACE, names))


def _narrow_space(
    spec: ExperimentSpec, features: FittedFeatures, facts: defaults.Facts, tell: Callable[[str], None]
) -> tuple[defaults.Choice, ...]:
    """The space for the one learner of a spec: of integers where it takes nothing else, and smaller where some of its
    values cannot keep `gate.latency_ms`."""
    given, told = spec.search.space or {}, list[str]()
    if not given or spec.search.algorithm == "grid":
        return ()
    varied = candidates.settle_integers(spec, spec.training.learner, given)
    limit = LatencyLimit(spec, packing_of(features), features.target, facts.train)
    (one,) = keep_within([candidates.Candidate(spec.training.learner, varied, {})], limit, told.append)
    if one.varied == given:
        return ()
    for line in told:
        tell(line)
    told = told or ["of integers where nothing else is taken"]
    space = {key: dimension.model_dump() for key, dimension in one.varied.items()}
    return (defaults.Choice("search.space", space, "; ".join(told)),)


def _choose_workers(
    spec: ExperimentSpec, features: FittedFeatures, facts: defaults.Facts
) -> tuple[defaults.Choice, ...]:
    """More workers than one, if the spec leaves them open and one cannot hold what a learner holds of the rows."""
    if spec.defaults == "fixed" or "workers" in spec.training.model_fields_set:
        return ()
    count, why = demand.count_workers(spec, packing_of(features), facts.train, features.target.outputs)
    return (defaults.Choice("training.workers", count, why),) if count > 1 else ()


def _decide_of_learners(
    spec: ExperimentSpec, features: FittedFeatures, facts: defaults.Facts, tell: Callable[[str], None]
) -> tuple[defaults.Choice, ...]:
    """What is open, and the learners that can do what the spec asks, each with its space."""
    rows = facts.train + facts.validation
    if (spec.search.folds or 0) > rows // 2:
        raise SpecError(
            f"search.folds: {spec.search.folds} folds of {rows:,} training and validation rows; each takes two at least"
        )
    refused: list[str] = []
    found = candidates.choose_candidates(
        spec, packing_of(features), features.target, refused.append, facts.train
    )
    limit = LatencyLimit(spec, packing_of(features), features.target, facts.train)
    found = keep_within(found, limit, refused.append)
    for line in refused:
        tell(line)
    spaces = {
        one.name: {**{key: space.model_dump() for key, space in one.varied.items()}, **one.held}
        for one in found
    }
    options = networks.options_of(spec.network.name) if "network" in spaces else ()
    why = "; ".join(["each can do what the spec asks", *refused])
    named = defaults.Choice("search.learners", spaces, why)
    settled = defaults.insert(spec, [named])
    return (named, *defaults.choose(settled, facts, {}, options))


def _choose_options(spec: ExperimentSpec, facts: defaults.Facts) -> list[defaults.Choice]:
    """What a learner takes for so many rows, of the options that the spec leaves open."""
    if spec.defaults == "fixed":
        return []
    return [
        defaults.Choice(f"training.options.{name}", value, f"{facts.train:,} training rows")
        for name, value in learners.options_for(learner_of(spec), facts.train, facts.task).items()
        if name not in spec.training.options
    ]


class Searched(NamedTuple):
    trials: SearchResult


def search(
    spec: ExperimentSpec,
    features: FittedFeatures,
    train: PackedSplit,
    validation: PackedSplit,
    *,
    name: str,
    storage_path: str,
    concurrent: int,
    observers: Sequence[TrialObserver] = (),
    resume: bool = False,
    state: SearchState | None = None,
    trusted: bool = False,
    seconds: float | None = None,
    replayed: Sequence[Replayed] = (),
    prior: SearchPrior = NOTHING_KNOWN,
) -> Searched:
    """Run the trials, for at most so many seconds in place of `search.max_minutes`; see `run_search`. Raises SpecError
    for what the learner cannot do."""
    check_learner(spec, features)
    chosen = decide(spec, features, {"train": train.count, "validation": validation.count})
    spec = defaults.insert(spec, chosen)
    if seconds is not None:
        limited = spec.search.model_copy(update={"max_minutes": seconds / 60})
        spec = spec.model_copy(update={"search": limited})
    job = Job(spec, packing_of(features), features.target, train, validation)
    found = run_search(
        job,
        name=name,
        storage_path=storage_path,
        concurrent=concurrent,
        observers=observers,
        resume=resume,
        state=state,
        trusted=trusted,
        replayed=replayed,
        prior=prior,
    )
    decided = {choice.key: choice.value for choice in chosen if choice.key.startswith(_OF_A_TRIAL)}
    found = dataclasses.replace(
        found, trials=tuple(dataclasses.replace(trial, decided=decided) for trial in found.trials)
    )
    return Searched(found)


def check_learner(spec: ExperimentSpec, features: FittedFeatures) -> None:
    """Check once, and not in each trial, that a learner supports the request with these features. Raises
    SpecError."""
    candidates.check(spec, packing_of(features), features.target)


class Blended(NamedTuple):
    winner: Winner
    ranking: Ranking
    """Of the learners, as of `LearnerRanking.to_json`; empty where no blend was tried."""


def blend(
    spec: ExperimentSpec,
    rows: SplitRows,
    features: FittedFeatures,
    encoder: bytes,
    train: PackedSplit,
    validation: PackedSplit,
    trials: SearchResult,
    *,
    location: str = "",
    seconds: float | None = None,
    replayed: Sequence[Replayed] = (),
    student: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Blended:
    """The best trial, or a blend of several, where it gains beyond doubt on rows that its models have not seen.

    With `search.folds` the best are trained again on folds of the training and validation rows, with checkpoints below
    `location`, and answer as bags; what is not done after `seconds` is left out. With `search.distill` a network that
    learned from the blend takes its place, if it is better than the best trial. With `replayed` trials the winner is
    what they were a part of, or a network of the parameters `student` that learned from it.
    """
    if not spec.search.blends:
        return Blended(to_single(trials.best), {})
    began = time.monotonic()
    job = Job(spec, packing_of(features), features.target, train, validation)
    school = School(spec, rows, features, encoder, train, validation, trials, location)
    if replayed:
        return Blended(_rebuild(school, job, replayed, student), {})
    winner, bags = winners.choose_winner(job, trials, location=location, seconds=seconds, tell=tell)
    ranking = None
    if bags is not None:
        slices = read_slices(rows, bags, spec.evaluation.slices, features.target)
        ranking = rank_bags(
            bags, winner, spec.training, features.target, trials.metric, slices, spec.evaluation.slice_rows
        )
    if spec.search.distill and winner.is_blend:
        left = None if seconds is None else seconds - (time.monotonic() - began)
        taught = distill(school, winner, seconds=left, tell=tell)
        if taught is not None and taught.distilled is not None:
            tell(taught.distilled.describe())
            winner = taught if taught.distilled.gains else winner
    return Blended(winner, ranking.to_json() if ranking else {})


def _rebuild(
    school: School, job: Job, replayed: Sequence[Replayed], student: Mapping[str, Any] | None
) -> Winner:
    """The winner of a record. Raises RaymlopsError if a part of it cannot be trained again."""
    winner = winners.rebuild_winner(job, school.trials, replayed, school.location)
    if student is None:
        return winner
    told: list[str] = []
    taught = distill(school, winner, parameters=dict(student), tell=told.append)
    if taught is None:
        raise RaymlopsError("; ".join(told))
    return taught


class Exported(NamedTuple):
    model: bytes
    """ONNX: raw columns -> outputs."""


def export(spec: ExperimentSpec, features: FittedFeatures, winner: Winner) -> Exported:
    """The winner as one ONNX file that takes raw columns; equal inputs give equal bytes. Raises ArtifactError."""
    model = export_model(winners.write_core(spec, features, winner), features, name=spec.name)
    return Exported(to_bytes(model))


class Verified(NamedTuple):
    proof: Proof


def verify(
    spec: ExperimentSpec,
    rows: SplitRows,
    features: FittedFeatures,
    encoder: bytes,
    winner: Winner,
    model: bytes,
) -> Verified:
    """Compare the ONNX file with the trained model on the test split, and measure it there. Raises ParityError if
    they differ by more than `limits`."""
    scorer = winners.load_scorer(spec, features, winner)
    proof = prove_model(
        model,
        scorer,
        rows.of("test"),
        tensors=winners.read_for(spec, winner),
        encoder=encoder,
        features=features,
        count=rows.scan.fingerprint.rows["test"],
        weights=spec.training.sample_weights,
    )
    parity.require(proof.parity, limit=spec.limits.parity, flipped=spec.limits.flipped)
    return Verified(proof)


class Registered(NamedTuple):
    version: str


def register(
    spec: ExperimentSpec,
    rows: SplitRows,
    features: FittedFeatures,
    profile: Profile,
    trials: SearchResult,
    winner: Winner,
    model: bytes,
    proof: Proof,
    *,
    record: run_recorder.Record,
) -> Registered:
    """Register the file as a version of the search that `record` keeps; repeating it gives the same version. Raises
    UnreachableError if the tracking store stays unreachable."""
    return Registered(
        run_recorder.register_best(record, spec, rows.scan, features, profile, trials, winner, model, proof)
    )


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage, with what a runner needs to know."""

    run: Callable[..., Any]
    reads: tuple[str, ...]
    """The keys of the spec that it reads, such as `training.resident_bytes`."""
    revision: int = 1
    """Incremented when equal inputs give other outputs than before."""
    effect: bool = False
    """Whether it has side effects, so that stored outputs do not replace running it."""

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def inputs(self) -> Mapping[str, type]:
        """Its inputs beside the spec, each an output of another stage."""
        kinds = typing.get_type_hints(self.run)
        positional = [
            name
            for name, parameter in inspect.signature(self.run).parameters.items()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        return {name: kinds[name] for name in positional if name != "spec"}

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments that say how it runs."""
        parameters = inspect.signature(self.run).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)

    @property
    def outputs(self) -> Mapping[str, type]:
        """Its outputs."""
        return typing.get_type_hints(typing.get_type_hints(self.run)["return"])

    def narrow(self, spec: ExperimentSpec) -> ExperimentSpec:
        """The spec reduced to what the stage reads, with defaults elsewhere: the outputs are the same."""
        held, narrow = spec.model_dump(mode="json"), _blank()
        for key in self.reads:
            *parents, last = key.split(".")
            source, target = held, narrow
            for parent in parents:
                source, target = source[parent], target.setdefault(parent, {})
            target[last] = source[last]
        return ExperimentSpec.model_validate(narrow)

    def digest(self, spec: ExperimentSpec) -> str:
        """Digest of everything that its outputs depend on beside its inputs: the stage and its revision, this
        package's version, and the parts of the spec that it reads. A runner adds user code and the installed
        packages."""
        held = spec.model_dump(mode="json")
        read = {key: _get(held, key) for key in self.reads}
        parts = {"stage": self.name, "revision": self.revision, "raymlops": __version__, "spec": read}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _get(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value[part]
    return value


def _blank() -> dict[str, Any]:
    """The smallest valid spec."""
    features = {"target": {"column": "target"}, "numbers": ["feature"]}
    return {"name": "unnamed", "dataset": {"path": "unread"}, "features": features}


_OF_ROWS = ("training.learner", "training.resident_bytes", "training.sample_weights")
_MODEL = ("defaults", "features", "network", "training", "search")
"""What learners may read."""

STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(scan, reads=("dataset", "contract", "split", "features")),
        Stage(fit, reads=("defaults", "features", "training.sample_weights"), revision=2),
        Stage(
            encode,
            reads=(
                "search.blend",
                "search.distill",
                "search.glassbox",
                "search.learners",
                "training.learner",
                "training.resident_bytes",
                "training.sample_weights",
            ),
        ),
        Stage(search, reads=(*_MODEL, "gate.latency_ms", "gate.size_mb"), revision=3),
        Stage(
            blend,
            reads=(*_MODEL, "gate.latency_ms", "gate.size_mb", "evaluation.slices", "evaluation.slice_rows"),
            revision=4,
        ),
        Stage(export, reads=("name", *_MODEL)),
        Stage(verify, reads=("limits", *_MODEL)),
        Stage(register, reads=("name", "description"), effect=True),
    )
}
"""By name, in an order in which each finds its inputs."""
