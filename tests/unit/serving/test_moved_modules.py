import importlib

import pytest
from ray._common.utils import import_attr

# What files that were written by earlier versions, and the pages of then, have.
NAMES = {
    "raymlops.serving.app:build_app": "raymlops.serving.replica.app:build_app",
    "raymlops.serving.lane:make_middlewares": "raymlops.serving.fastpath.middleware:make_middlewares",
    "raymlops.serving.lane:make_guards": "raymlops.serving.fastpath.middleware:make_guards",
    "raymlops.serving.grpc_plane.add_to_server": "raymlops.serving.transport.grpc_service:add_to_server",
    "raymlops.serving.tracing:current": "raymlops.serving.transport.trace_context:current",
    "raymlops.serving.graph:read_graphs": "raymlops.serving.deploy.config_files:read_graphs",
    "raymlops.serving.opening:OfflineGraph": "raymlops.runtime.open_graph:OfflineGraph",
}


@pytest.mark.parametrize(("name", "now"), NAMES.items(), ids=NAMES)
@pytest.mark.filterwarnings("ignore:raymlops.serving:FutureWarning")
def test_names_that_files_of_users_have_are_those_of_today(name: str, now: str) -> None:
    assert import_attr(name) is import_attr(now)  # as Serve looks them up


def test_a_moved_module_tells_its_new_name_and_others_are_still_missing() -> None:
    with pytest.warns(FutureWarning, match="is now called raymlops.serving.transport.trace_context"):
        importlib.reload(importlib.import_module("raymlops.serving.tracing"))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("raymlops.serving.nothing")
