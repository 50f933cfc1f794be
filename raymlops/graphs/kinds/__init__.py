"""The kinds of nodes: one file per kind, collected in one dict by the name that graph files use.

`specs.graph_nodes.NODE_DOCUMENTS` has the keys that a user may write for a kind, under the same name.
"""

from collections.abc import Mapping
from typing import Any

from raymlops.graphs.kinds.cascade import Cascade
from raymlops.graphs.kinds.each import Each
from raymlops.graphs.kinds.graph import InnerGraph
from raymlops.graphs.kinds.mean import Mean
from raymlops.graphs.kinds.model import Model
from raymlops.graphs.kinds.python import Python
from raymlops.graphs.kinds.shadow import Shadow
from raymlops.graphs.kinds.split import Split
from raymlops.graphs.kinds.stack import Stack
from raymlops.graphs.kinds.switch import Switch
from raymlops.graphs.kinds.vote import Vote
from raymlops.graphs.kinds.weighted import Weighted
from raymlops.graphs.node_kind import NodeKind

KINDS: Mapping[str, NodeKind[Any]] = {
    "model": Model(),
    "python": Python(),
    "mean": Mean(),
    "weighted": Weighted(),
    "vote": Vote(),
    "stack": Stack(),
    "switch": Switch(),
    "cascade": Cascade(),
    "split": Split(),
    "shadow": Shadow(),
    "each": Each(),
    "graph": InnerGraph(),
}
