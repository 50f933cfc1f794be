"""What an endpoint counts: each request once, by how it ended; times of its stages; sums over replicas that
come, end and are restarted."""

import asyncio
import json
import pathlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from raymlops.histograms import SIZES, TIMES_NS, Histogram, add_trees, find_quantile
from raymlops.serving.actors.statistics_aggregator import GONE_S, SILENT_S, Aggregator
from raymlops.serving.endpoints import prometheus
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.endpoints.prometheus import EDGE
from raymlops.serving.endpoints.statistics import OUTCOMES, Statistics, Tree
from raymlops.serving.proxy import key_guard
from raymlops.serving.transport.api_keys import KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.grpc_answers import Call
from raymlops.serving.transport.key_files import write_keys
from raymlops.serving.transport.rate_limit import Bank, RateLimit
from raymlops.specs.serving import HostedModel
from tests import toy_models

QUESTION = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
KEY = ("toy", "1")


def make_plane(folder: pathlib.Path, *names: str, deadline_s: float = 30.0, **options: Any) -> DataPlane:
    hosted = {}
    for name in names or ("doubler",):
        model = toy_models.slow() if name == "slow" else toy_models.doubler()
        path = toy_models.save(model, folder / "model.onnx")
        spec = HostedModel(source=str(path), version="3", deadline_s=deadline_s)
        hosted[name] = host_model(name, path, spec)
    return DataPlane(Hosts("test", hosted), **options)


def run(plane: DataPlane, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
    async def enter() -> Any:
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await work(client)

    return asyncio.run(enter())


def read(plane: DataPlane, metric: str, label: str = "status") -> dict[tuple[str, str], float]:
    text = run(plane, lambda client: client.get("/metrics", headers={"X-API-Key": OPS[0]})).text
    return {
        (sample.labels.get("model", ""), sample.labels.get(label, "")): sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name == metric and sample.value
    }


OPS = make_key("ops", ("metrics", "view"))
APP = make_key("app", ("infer",))


def test_each_request_for_inference_is_counted_once_by_how_it_ended(tmp_path: pathlib.Path) -> None:
    keys = KeyRing([OPS[1], APP[1]])
    rate = RateLimit(1e-9, Bank(1e-9, 7.0).lease)
    plane = make_plane(tmp_path, keys=keys, rate=rate, body_limit=10_000)
    path, key = "/v2/models/doubler/infer", {"X-API-Key": APP[0]}

    async def work(client: httpx.AsyncClient) -> list[int]:
        told = [await client.post(path, json=QUESTION, headers=key) for _ in range(2)]
        told += [
            await client.post(path, json=QUESTION),
            await client.post(path, json=QUESTION, headers={"X-API-Key": OPS[0]}),
            await client.post(path, json={}, headers=key),
            await client.post("/invocations", content=b"x", headers=key),
            await client.post("/v2/models/nobody/infer", json=QUESTION, headers=key),
            await client.post(path, content=b" " * 20_000, headers=key),
            await client.get(path, headers=key),
            await client.get("/v2/health/live"),
            await client.get("/v2/nothing", headers=key),
        ]
        plane.hosts.pending = plane.hosts.queue
        told.append(await client.post(path, json=QUESTION, headers=key))
        plane.hosts.pending = 0
        told.append(await client.post(path, json=QUESTION, headers=key))
        return [answer.status_code for answer in told]

    assert run(plane, work) == [200, 200, 401, 403, 400, 400, 404, 413, 405, 200, 404, 503, 429]
    expected = {
        ("doubler", "success"): 2,
        ("doubler", "unauthorized"): 2,
        ("doubler", "client_error"): 2,
        ("", "client_error"): 1,
        ("doubler", "too_large"): 1,
        ("doubler", "overloaded"): 1,
        ("doubler", "rate_limited"): 1,
    }
    assert read(plane, "raymlops_requests_total") == expected
    assert read(plane, "raymlops_request_duration_seconds_count") == expected
    assert read(plane, "nv_inference_request_failure") == {("doubler", ""): 7}


def test_the_first_of_each_kind_is_one_more_than_none(tmp_path: pathlib.Path) -> None:
    text = run(make_plane(tmp_path), lambda client: client.get("/metrics")).text
    for outcome in OUTCOMES:
        labels = f'application="test",model="doubler",status="{outcome}",version="3"'
        assert f"raymlops_requests_total{{{labels}}} 0.0\n" in text


def ask_slow(client: httpx.AsyncClient) -> Coroutine[Any, Any, httpx.Response]:
    """What takes long enough to be run in a thread."""
    data = np.ones((300, 512), np.float32)
    entry = {"name": "x", "shape": [300, 512], "datatype": "FP32"}
    text = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": data.nbytes}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return client.post("/v2/models/slow/infer", content=text + data.tobytes(), headers=headers)


def test_waiting_is_told_from_running_and_both_from_reading_and_writing(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path, "slow")

    async def work(client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(ask_slow(client) for _ in range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4

    run(plane, work)
    counted = plane.hosts.models["slow"].statistics
    stats = counted.to_json()["inference_stats"]
    total = sum(stats[name]["ns"] for name in ("compute_input", "queue", "compute_infer", "compute_output"))
    assert {stats[name]["count"] for name in stats if name != "fail"} == {4}
    assert total <= stats["success"]["ns"]
    assert stats["queue"]["ns"] > stats["compute_infer"]["ns"] / 8  # who comes second waits for the first
    assert find_quantile(counted.queue.counts, 1.0) > find_quantile(counted.queue.counts, 0.2)


def test_a_deadline_is_counted_as_one(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path, "slow", deadline_s=0.001)
    assert run(plane, ask_slow).status_code == 504
    assert read(plane, "raymlops_requests_total") == {("slow", "deadline"): 1}


def test_requests_that_share_a_run_are_each_counted_and_their_run_once(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path)

    async def work(client: httpx.AsyncClient) -> None:
        path = "/v2/models/doubler/infer"
        await asyncio.gather(*(client.post(path, json=QUESTION) for _ in range(32)))

    run(plane, work)
    document = plane.hosts.models["doubler"].statistics.to_json()
    assert document["inference_stats"]["compute_infer"]["count"] == 32
    assert document["inference_stats"]["queue"]["count"] == 32
    runs = document["execution_count"]
    assert runs < 32
    assert read(plane, "raymlops_run_rows_count") == {("doubler", ""): runs}
    assert read(plane, "raymlops_run_requests_sum") == {("doubler", ""): 32}


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\\b", "ä", "a} 1\nraymlops_fake 7"])
def test_whatever_a_model_is_called_the_text_is_read_again(tmp_path: pathlib.Path, name: str) -> None:
    trees = {"r": {(name, "1"): Statistics(name, "1").to_tree()}}
    for accept, reader in (("", parse), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)):
        text, _ = prometheus.render("app", trees, accept)
        samples = [sample for family in reader(text.decode()) for sample in family.samples]
        assert {sample.labels["model"] for sample in samples} == {name}
        assert not any("fake" in sample.name for sample in samples)


def test_the_text_is_of_the_type_that_is_asked_for_and_packed_where_that_is_taken(
    tmp_path: pathlib.Path,
) -> None:
    plane = make_plane(tmp_path)
    run(plane, lambda client: client.post("/v2/models/doubler/infer", json=QUESTION))
    plain = run(plane, lambda client: client.get("/metrics", headers={"Accept-Encoding": "identity"}))
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "content-encoding" not in plain.headers
    headers = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
    packed = run(plane, lambda client: client.get("/metrics", headers=headers))
    assert packed.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text.endswith("# EOF\n")
    kinds = {family.name: family.type for family in parse_openmetrics(packed.text)}
    assert kinds["raymlops_requests"] == "counter"
    assert kinds["raymlops_request_stage_seconds"] == "histogram"
    head = run(plane, lambda client: client.head("/metrics"))
    assert (head.status_code, head.content) == (200, b"")


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_every_count_that_is_shown_is_of_the_values_up_to_its_bound(values: list[int]) -> None:
    statistics = Statistics(*KEY)
    for value in values:
        statistics.compute.add(value)
        statistics.run_rows.add(value)
    text, _ = prometheus.render("app", {"": {KEY: statistics.to_tree()}})
    scales = {"raymlops_run_rows_bucket": 1.0, "raymlops_request_stage_seconds_bucket": 1e9}
    checked = 0
    for family in parse(text.decode()):
        for sample in family.samples:
            if sample.name in scales and sample.labels.get("stage", "compute") == "compute":
                bound = float(sample.labels["le"]) * scales[sample.name]
                assert sample.value == sum(value <= bound for value in values)
                checked += 1
    assert checked > 30


@given(st.lists(st.integers(TIMES_NS[0] + 1, TIMES_NS[-1]), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_at_most_a_quarter_from_the_true_one(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[max(0, int(np.ceil(share * len(values))) - 1)]
    assert true / 1.27 <= find_quantile(histogram.counts, share) <= true * 1.27
    total = histogram.to_tree()
    add_trees(total, histogram.to_tree())
    assert total["sum"] == 2 * sum(values)


def test_sizes_above_the_last_bound_and_times_of_hours_are_counted() -> None:
    rows, times = Histogram(SIZES), Histogram()
    rows.add(10**9)
    times.add(10**13)
    assert (rows.counts[-1], times.counts[-1]) == (1, 1)
    assert find_quantile(times.counts, 0.5) == TIMES_NS[-1]
    assert find_quantile(Histogram().counts, 0.5) == 0


def test_a_proxy_tells_the_metrics_of_a_sleeping_application_without_waking_it(
    tmp_path: pathlib.Path,
) -> None:
    write_keys(tmp_path / "keys.yaml", [OPS[1], APP[1]])
    config = {"import_path": "raymlops.serving.app:build_app", "args": {"keys": str(tmp_path / "keys.yaml")}}
    told = {"route_prefix": "/shop", "deployed_app_config": config}

    class Known(key_guard.Applications):
        replicas: list[dict[str, str]] = []

        async def refresh(self) -> Any:
            running = {"deployments": {"Ingress": {"replicas": self.replicas}}}
            application = key_guard.read_application("shop", told | running, None)
            application.read_file()
            return {"shop": application}

    async def judge(method: str = "GET", token: str = OPS[0]) -> int:
        headers = [(b"x-api-key", token.encode())]
        scope = {"type": "http", "method": method, "path": "/shop/metrics", "headers": headers}
        told = await key_guard.KeyGuard(None)._judge(scope)
        return 0 if told is None else told.status  # 0 where the application is asked, and so woken

    before, key_guard.APPLICATIONS = key_guard.APPLICATIONS, Known()
    try:
        asked = [asyncio.run(judge(*what)) for what in ((), ("HEAD",), ("GET", APP[0]), ("GET", "wrong"))]
        Known.replicas = [{"state": "RUNNING"}]
        asked.append(asyncio.run(judge()))
    finally:
        key_guard.APPLICATIONS = before
    assert asked == [200, 200, 403, 401, 0]


class Replica:
    """What a replica does, as far as an aggregator sees it."""

    def __init__(self, name: str) -> None:
        self.name, self.statistics = name, Statistics(*KEY)
        self.task: asyncio.Task[None] | None = None
        self.refusals = 0

    def count(self, number: int) -> None:
        for _ in range(number):
            now = time.perf_counter_ns()
            self.statistics.record_run(1, now, now + 1000, (now,))
            self.statistics.record_success(
                Call("ModelInfer", "1", arrived=now, decoded=now, answered=now), now + 2000
            )

    async def report(self, aggregators: list[Aggregator]) -> None:
        life, round_ = "", 0
        while True:
            edge: Tree = {
                "counts": {"durations": {}},
                "latest": {},
                "now": {"pending": 1, "up": 1},
                "told": {},
            }
            trees = {EDGE: edge, KEY: self.statistics.to_tree()}
            life, round_ = await aggregators[0].report("app", self.name, life, round_, trees)
            if round_ < 0:
                life, self.refusals = "", self.refusals + 1
                round_ = 99  # as of another life


def read_sum(tree: Tree) -> int:
    return sum(tree["counts"]["durations"]["success"]["counts"])


def run_at_once(work: Callable[[Aggregator], Coroutine[Any, Any, None]]) -> None:
    """With a clock that goes on by itself when everybody waits for it."""
    loop = asyncio.SelectorEventLoop()
    now, select = [0.0], loop._selector.select  # type: ignore[attr-defined]
    loop.time = lambda: now[0]  # type: ignore[method-assign]

    def go_on(timeout: float | None) -> Any:
        now[0] += timeout or 0.0
        return select(0)

    loop._selector.select = go_on  # type: ignore[attr-defined]
    try:
        loop.run_until_complete(work(Aggregator(clock=loop.time)))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.integers(0, 2), st.integers(1, 5)),
        st.tuples(st.sampled_from(["kill", "read"]), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 400)),
    ),
    max_size=25,
)


@given(STEPS)
def test_sums_are_exact_whichever_replicas_end_and_whenever_they_are_asked_for(
    steps: list[tuple[str, int, int]],
) -> None:
    async def work(aggregator: Aggregator) -> None:
        sent = started = 0
        living: list[Replica] = []
        shown: dict[str, int] = {}
        for what, number, many in [*steps, ("read", 0, 0)]:
            while len(living) < 3:
                started += 1
                living.append(Replica(f"r{started}"))
                living[-1].task = asyncio.ensure_future(living[-1].report([aggregator]))
                await asyncio.sleep(0.01)
            if what == "count":
                living[number].count(many)
                sent += many
            elif what == "wait":
                await asyncio.sleep(many)
            else:
                _, sums = await aggregator.sum_up("app")
                assert read_sum(sums[KEY]) == sent
                trees = aggregator._applications["app"].show()
                now_shown = {name: read_sum(of[KEY]) for name, of in trees.items()}
                assert all(now_shown.get(name, count) >= count for name, count in shown.items())
                shown = now_shown
            if what == "kill":
                task = living.pop(number).task
                assert task is not None
                task.cancel()

    run_at_once(work)


def test_a_restarted_aggregator_is_told_everything_anew_and_a_dead_replica_is_shown_for_a_while() -> None:
    async def work(aggregator: Aggregator) -> None:
        aggregators = [aggregator]
        replicas = [Replica("a"), Replica("b")]
        for replica in replicas:
            replica.task = asyncio.ensure_future(replica.report(aggregators))
            replica.count(5)
        await asyncio.sleep(0.1)
        replicas[0].count(1)
        replies = await asyncio.gather(*(aggregator.sum_up("app", {KEY}) for _ in range(50)))
        assert {(living, read_sum(sums[KEY])) for living, sums in replies} == {(2, 11)}
        assert aggregator._applications["app"].round <= 2  # however many ask at once

        assert replicas[1].task is not None
        replicas[1].task.cancel()
        await asyncio.sleep(SILENT_S + 5)
        living, sums = await aggregator.sum_up("app")
        assert (living, read_sum(sums[KEY])) == (1, 11)
        shown = aggregator._applications["app"].show()
        assert (shown["b"][EDGE]["now"], shown["a"][EDGE]["now"]) == ({}, {"pending": 1, "up": 1})
        await asyncio.sleep(GONE_S + 5)
        _, sums = await aggregator.sum_up("app")
        assert (list(aggregator._applications["app"].show()), read_sum(sums[KEY])) == (["a"], 11)

        for _ in range(5):  # so that rounds of this life are above those of the next
            await aggregator.sum_up("app")
        aggregators[0] = Aggregator(clock=asyncio.get_running_loop().time)
        await asyncio.sleep(5)
        living, sums = await aggregators[0].sum_up("app")
        assert (living, read_sum(sums[KEY]), replicas[0].refusals) == (1, 6, 1)
        replicas[0].count(1)
        _, sums = await aggregators[0].sum_up("app")
        assert read_sum(sums[KEY]) == 7
        assert (await aggregators[0].sum_up("other"))[1] == {}

    run_at_once(work)


def test_replicas_that_come_and_go_leave_their_sums_though_nobody_asks() -> None:
    async def work(aggregator: Aggregator) -> None:
        for number in range(60):
            counted = Statistics(*KEY)
            now = time.perf_counter_ns()
            counted.record_success(
                Call("ModelInfer", "1", arrived=now, decoded=now, answered=now), now + 2000
            )
            replica = f"r{number}"
            await aggregator.report("app", replica, "", 0, {KEY: counted.to_tree()})
            await asyncio.sleep(GONE_S / 2)
        assert len(aggregator._applications["app"].replicas) < 10
        _, found = await aggregator.sum_up("app")
        assert read_sum(found[KEY]) == 60

    run_at_once(work)
