"""The flights as the benchmarks take them: the spec, its packed rows, and a model trained for a moment."""

import pathlib

from raymlops.pipelines.prepare import Prepared, prepare
from raymlops.specs.document import read_document
from raymlops.specs.experiment import ExperimentSpec

SPEC = pathlib.Path(__file__).parent.parent / "jobs" / "specs" / "flights.yaml"


def read_spec(*overrides: str) -> ExperimentSpec:
    return read_document(SPEC, ExperimentSpec, overrides)


def prepare_flights(*overrides: str) -> Prepared:
    """Needs a running cluster."""
    return prepare(read_spec(*overrides))
