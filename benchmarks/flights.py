"""The flights as the benchmarks take them: the spec, its packed rows, raw rows, and its model."""

import pathlib

import pyarrow as pa
import ray
import torch

from raymlops.lifecycle.train.prepare import Prepared, prepare
from raymlops.models import export
from raymlops.specs.document import read_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import torch_export
from raymlops.training.learners.network import network_of

SPEC = pathlib.Path(__file__).parent.parent / "jobs" / "specs" / "flights.yaml"


def read_spec(*overrides: str) -> ExperimentSpec:
    return read_document(SPEC, ExperimentSpec, overrides)


def prepare_flights(*overrides: str) -> Prepared:
    """Needs a running cluster."""
    return prepare(read_spec(*overrides))


def export_model(prepared: Prepared) -> bytes:
    """The spec's model with weights as they are drawn: what an answer costs does not depend on them."""
    torch.manual_seed(0)
    network = network_of(prepared.spec.network, prepared.job.packing, prepared.features.target)
    trained = torch_export.export_network(network, prepared.job.packing)
    return export.export_model(trained, prepared.features, name="flights").SerializeToString()


def take_rows(prepared: Prepared) -> pa.Table:
    """The raw columns that the model takes, of the whole test split."""
    table = pa.concat_tables(ray.get(prepared.rows.of("test").to_arrow_refs()))
    return table.select([spec.name for spec in prepared.features.inputs])
