"""Runs stages of a training from files to files; in a module of its own, since Ray's workers import no test module."""

from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.data import sources
from raymlops.lifecycle.train import stage_outputs
from raymlops.lifecycle.train.stages import STAGES
from raymlops.specs.experiment import ExperimentSpec


def run_saved(
    names: Sequence[str], spec: ExperimentSpec, folder: str, options: Mapping[str, dict[str, Any]] = {}
) -> dict[str, str]:
    """Each with no more of the spec than it reads, and its inputs loaded anew; gives the digests of all outputs."""
    sources.configure()
    digests = {}
    for name in names:
        stage = STAGES[name]
        inputs = [stage_outputs.load(kind, f"{folder}/{value}") for value, kind in stage.inputs.items()]
        outputs = stage.run(stage.narrow(spec), *inputs, **options.get(name, {}))
        for value, given in outputs._asdict().items():
            digests[value] = stage_outputs.save(given, f"{folder}/{value}").digest
    return digests
