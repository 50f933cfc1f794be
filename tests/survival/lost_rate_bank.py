"""Two replicas' rate limits on several raylets of this machine, of which the one with their counter is killed; in a
process of its own. Prints what was admitted as JSON.

    python -m tests.survival.lost_rate_bank
"""

import asyncio
import json
import logging
import os
from typing import Any


async def count(limit: Any, caller: str) -> int:
    """Requests that are admitted, of twenty."""
    from raymlops.errors import TooManyRequestsError

    admitted = 0
    for _ in range(20):
        try:
            await limit.admit(caller)
            admitted += 1
        except TooManyRequestsError:
            pass
    return admitted


def find_node(name: str) -> str:
    import ray

    bank = ray.get_actor(f"raymlops-rate-bank-{name}", namespace="raymlops")
    return str(ray.get(bank.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())))


async def lose(cluster: Any, nodes: dict[str, Any]) -> dict[str, object]:
    from raymlops.serving.actors.rate_limit_actor import make_lease
    from raymlops.serving.transport.rate_limit import RateLimit
    from raymlops.specs.serving import ServingSpec

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("raymlops.serving").addHandler(handler)
    logging.getLogger("raymlops.serving").setLevel(logging.INFO)
    limits = {"rate": 0.001, "burst": 10}
    for number in range(50):  # until one lies beyond the head
        spec = ServingSpec.model_validate(
            {"name": f"lost-{number}", "replicas": 2, "models": {"toy": {"source": "x"}}, "limits": limits}
        )
        replicas = [RateLimit(0.001, make_lease(spec)) for _ in range(2)]
        before = await count(replicas[0], "before")
        node = find_node(spec.name)
        if node in nodes:
            break
    cluster.remove_node(nodes[node], allow_graceful=False)
    number = 0
    while sum("count together again" in text for text in said) < len(replicas):
        for limit in replicas:  # nobody is refused a first request meanwhile
            await limit.admit(f"caller {number}")
        number += 1
        await asyncio.sleep(0.05)
    shared = await count(replicas[0], "after"), await count(replicas[1], "after")
    alone = sum("counts by itself" in text for text in said)
    return {"before": before, "alone": alone, "moved": find_node(spec.name) != node, "after": shared}


def main() -> None:
    os.environ.update(
        RAY_AUTH_MODE="disabled", RAY_raylet_start_wait_time_s="240", RAY_agent_register_timeout_ms="240000"
    )
    os.environ.pop("RAY_ADDRESS", None)
    from raymlops.settings import apply_process_defaults

    apply_process_defaults()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}
    cluster.wait_for_nodes(200)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    print(json.dumps(asyncio.run(asyncio.wait_for(lose(cluster, nodes), 300))))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
