"""Serves models over HTTP and gRPC on Ray Serve. `app.build_app` is Serve's entry point, `transport.asgi.DataPlane`
that of any ASGI server.

Names of modules that files of users have are still imported after the module was moved: manifests of KubeRay, configs
printed for `serve deploy`, and Python nodes, which were told of `tracing.current`.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence

_MOVED = {
    "raymlops.serving.graph": "raymlops.serving.deploy.config_files",  # for read_graphs
    "raymlops.serving.grpc_plane": "raymlops.serving.transport.grpc_service",
    "raymlops.serving.lane": "raymlops.serving.fastpath.middleware",
    "raymlops.serving.opening": "raymlops.runtime.open_graph",
    "raymlops.serving.tracing": "raymlops.serving.transport.trace_context",
}


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Asked only for modules that are not there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in _MOVED else None

    def exec_module(self, module: types.ModuleType) -> None:
        now = _MOVED[module.__name__]
        warnings.warn(
            f"{module.__name__} is now called {now}; write the new name", FutureWarning, stacklevel=2
        )
        names = vars(importlib.import_module(now))
        vars(module).update({name: value for name, value in names.items() if not name.startswith("__")})


sys.meta_path.append(_MovedModules())
