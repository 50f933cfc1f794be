"""Ray's fake node provider with a temporary folder for each node, as real machines have."""

import functools
import tempfile
from typing import Any
from unittest import mock

import ray._private.parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class SeparateNodes(FakeMultiNodeProvider):
    """Nodes that share a folder unpack a job's files over each other, and take away what it stands on."""

    def _create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        folder = tempfile.mkdtemp(prefix="n", dir=self.provider_config["folder"])
        own = functools.partial(ray._private.parameter.RayParams, temp_dir=folder)
        with mock.patch.object(ray._private.parameter, "RayParams", own):
            super()._create_node_with_resources_and_labels(*arguments)
