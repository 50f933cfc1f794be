"""The page of operations: every metric, alarm, port, file and environment variable, read from where the code has them."""

import ast
import inspect
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

import yaml

from raymlops import settings
from raymlops.cli import tracking_server
from raymlops.cli.clusters import cluster
from raymlops.clusters import manifests
from raymlops.serving.deploy import conflicts
from raymlops.serving.endpoints.prometheus import FAMILIES
from raymlops.serving.endpoints.told_gauges import GAUGES
from raymlops.serving.fastpath import ray_serve_env
from raymlops.specs.serving import ServingSpec
from reference_pages.markdown import code, sentence, table

ROOT = pathlib.Path(__file__).parents[2]


def write_page() -> str:
    """The page of operations."""
    return "\n\n".join(
        [
            "# Operations",
            "What someone who runs the product has to watch, open, keep and set. These tables are read from the code when "
            "this site is built.",
            "## Metrics",
            "`GET /metrics` of an application has them, for all its replicas: see [Metrics](metrics.md) for labels, "
            "queries and what is not counted. Those that are not by model have no labels `model` and `version`.",
            table(["metric", "type", "by model", "meaning"], metric_rows()),
            "What judges the application tells these gauges, shown for 15 minutes after they were last told:",
            table(["gauge", "labels beside `application`", "meaning"], gauge_rows()),
            "## Alarms",
            "The product raises [operational alarms](operational_alarms.md) by itself. `dashboards/alerts.yaml` has these "
            "rules for Prometheus; the numbers are examples.",
            table(["alarm", "lasts", "what it says", "asked"], alarm_rows()),
            "## Ports",
            "Everything listens on loopback until it is told otherwise; `raymlops doctor` lists the sockets of a machine.",
            table(["port", "what listens", "who needs it", "how to change it"], port_rows()),
            "## Files and folders",
            table(["path", "what", "if it is lost"], file_rows()),
            "## Environment variables",
            "They are read once, when a command starts.",
            table(["variable", "meaning"], setting_rows()),
            "### Tokens of the cluster",
            table(["variable", "meaning"], RAY_VARIABLES.items()),
            "### Set inside the product",
            "Processes of the product set these for one another; nobody else needs to.",
            table(["variable", "meaning"], INNER_VARIABLES.items()),
            "### Settings of libraries",
            "Every command sets these for the libraries below it, and for the processes that it starts. What the environment "
            "says already is kept.",
            table(["variable", "value", "why"], default_rows(settings, "PROCESS_DEFAULTS", settings.PROCESS_DEFAULTS)),
            "A training of several workers also has these:",
            table(["variable", "value", "why"], default_rows(settings, "TEAM_DEFAULTS", settings.TEAM_DEFAULTS)),
            "### Settings of Ray Serve",
            "`serve`, `deploy` and `cluster start` set these before Ray starts; `raymlops cluster environment` prints them. "
            "With `--plain` Ray Serve is left as it comes.",
            table(["variable", "value", "why"], serve_rows()),
        ]
    ) + "\n"  # fmt: skip


def metric_rows() -> Iterator[Sequence[str]]:
    for name, family in FAMILIES.items():
        shown = f"{name}_total" if family.kind == "counter" else name
        yield (
            code(shown),
            "counter, untyped" if family.kind == "unknown" else family.kind,
            "yes" if family.of_model else "",
            sentence(family.words),
        )


def gauge_rows() -> Iterator[Sequence[str]]:
    for name, told in GAUGES.items():
        yield code(name), ", ".join(told.labels), sentence(told.words)


def alarm_rows() -> Iterator[Sequence[str]]:
    rules = yaml.safe_load((ROOT / "dashboards/alerts.yaml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" not in rule:  # a rate that alarms below it ask for
                continue
            told = re.sub(r"\{\{ *\$labels\.(\w+) *\}\}", r"<\1>", rule["annotations"]["summary"])
            told = re.sub(r"\{\{ *\$value[^}]*\}\}", "<value>", told)
            yield rule["alert"], rule.get("for", "at once"), code(told), code(" ".join(rule["expr"].split()))


def port_rows() -> Iterator[Sequence[str]]:
    fields, ray = ServingSpec.model_fields, manifests._PORTS
    start = {option.name: option.default for option in cluster.commands["start"].params}
    server = {option.name: option.default for option in tracking_server.tracking_server.params}
    inner = conflicts._INNER_PORTS
    yield (
        code(fields["port"].default),
        "the endpoint: HTTP",
        "callers",
        "`port` and `host` of the serving spec",
    )
    yield "off", "the endpoint: gRPC", "callers", "`grpc_port` of the serving spec; 8001 is usual"
    yield (
        "30000-31000, 40000-41000", "replicas: HTTP, and gRPC", "the proxies of the same cluster; close them to others",
        "Ray Serve chooses one for each replica",
    )  # fmt: skip
    told = {
        "RAY_SERVE_HAPROXY_STATS_PORT": "HAProxy's statistics",
        "RAY_SERVE_HAPROXY_METRICS_PORT": "HAProxy's metrics",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": "Serve's own proxy behind HAProxy: HTTP",
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": "Serve's own proxy behind HAProxy: gRPC",
    }
    for name, port in inner.items():
        yield (
            code(port),
            told[name],
            "this machine",
            f"{code(name)}; where the port is taken, the next free one is used",
        )
    yield (
        code(start["port"]),
        "Ray's control store (GCS)",
        "nodes that join",
        "`raymlops cluster start --port`",
    )
    yield (
        code(start["dashboard_port"]), "Ray's dashboard and job server", "`raymlops submit`",
        "`raymlops cluster start --dashboard-port`",
    )  # fmt: skip
    yield code(ray["client"]), "Ray's client server", "nobody: it is not started, but on Kubernetes", "Ray"
    yield (
        "any free one",
        "Ray's workers, node managers and agents",
        "the other nodes of the cluster",
        "`ray start`",
    )
    yield (
        code(server["port"]),
        "the tracking server",
        "jobs, and people's browsers",
        "`raymlops tracking-server --port`",
    )


def file_rows() -> Iterator[Sequence[str]]:
    for path, (what, lost) in FILES.items():
        yield code(path), what, lost


FILES: Mapping[str, tuple[str, str]] = {
    "$RAYMLOPS_HOME": ("all of the following, unless variables say otherwise; `~/raymlops` by default", ""),
    "$RAYMLOPS_HOME/mlflow.db": ("runs, versions and aliases, where no tracking server is set", "the registry is lost: back it up"),
    "$RAYMLOPS_HOME/artifacts": ("files of runs and registered models, with a local store", "versions cannot be served: back it up"),
    "$RAYMLOPS_HOME/storage": ("checkpoints and states of searches, where RAYMLOPS_STORAGE is not set", "what was cut off begins anew"),
    "$RAYMLOPS_STORAGE/deployments": (
        "what was deployed, an entry for each deployment, for `--rollback` and `cluster restore`",
        "a head that starts again serves nothing until `deploy`",
    ),
    "$RAYMLOPS_STORAGE/monitoring": (
        "counts of rows by minute, references of deployed versions", "alarms on data judge what comes from then on",
    ),
    "$RAYMLOPS_STORAGE/incidents": (
        "alarms, an entry for each change, never overwritten", "what is open is raised again; its history is lost",
    ),
    "$RAYMLOPS_STORAGE/operations": (
        "what operational checks saw in the last days, a file for each application", "rates of days are known again after days",
    ),
    "$RAYMLOPS_HOME/keys": ("the private key that signs evidence, made on first use", "make a new one, and `history --sign` again"),
    "$RAYMLOPS_HOME/records": (
        "the newest entry of each model's record that this machine has seen",
        "a registry that was put back to an earlier state is not noticed",
    ),
    "$RAYMLOPS_HOME/models": ("the ONNX file of each search, as it was exported", "nothing: the registry has its own"),
    "$RAYMLOPS_HOME/reports": ("HTML reports of evaluations and gates", "nothing: each run keeps its own"),
    "$RAYMLOPS_HOME/variants": ("smaller variants of versions, made for the gate", "they are made again"),
    "$RAYMLOPS_HOME/spool": ("metrics that the tracking store has not taken yet", "those points of the curves"),
    "$RAYMLOPS_HOME/events": ("messages that channels of notify.yaml have not taken yet", "those messages"),
    "$RAYMLOPS_HOME/notify.yaml": ("whom events are told, where no other file says it", "events go to the log alone"),
    "$RAYMLOPS_HOME/environments": ("environments that `reproduce --environment rebuild` made", "they are made again"),
    "$RAYMLOPS_HOME/clusters": ("configurations that `cluster up` handed to Ray", "`cluster render` makes them again"),
    "$RAYMLOPS_HOME/tracking-server": ("passwords and session key of `raymlops tracking-server`", "users log in again"),
    "$RAYMLOPS_HOME/haproxy.sh": ("the script with which Ray Serve starts HAProxy", "it is written again"),
    "/tmp/raymlops-UID/answered-rows": (  # noqa: S108
        "the number of rows that each replica of the node answered", "the loss of a replica that is killed is unknown",
    ),
    "/tmp/hap-UID": ("HAProxy's configuration and sockets, for this user only", "Serve writes them again"),  # noqa: S108
    "~/.ray/auth_token": ("the token of clusters, mode 0600", "`raymlops cluster token` makes another; restart the cluster"),
    "~/.mlflow/credentials": ("user and password of the tracking server", "whoever runs the server has them"),
    "keys.yaml": ("hashes of an endpoint's API keys; its place is `keys` of the serving spec", "every caller needs a new key"),
}  # fmt: skip
"""Path -> what it holds, and what is lost with it."""


def setting_rows() -> Iterator[Sequence[str]]:
    """From the docstrings of `Settings`, which begin with the variable's name."""
    tree = ast.parse(inspect.getsource(settings.Settings))
    (made,) = tree.body
    assert isinstance(made, ast.ClassDef)
    for statement in made.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            told = " ".join(str(statement.value.value).split()).replace(
                "under home", "under `$RAYMLOPS_HOME`"
            )
            if found := re.match(r"([A-Z]+_[A-Z_]+)(?:, else (\w+))?: ", told):
                if f"`{found[1]}`" in INNER_VARIABLES:
                    continue
                other = f" Else {code(found[2])}." if found[2] else ""
                yield code(found[1]), sentence(told[found.end() :]) + other
    yield code("RAYMLOPS_KEY"), "The API key with which `raymlops serve FILE --check` asks."


RAY_VARIABLES: Mapping[str, str] = {
    "`RAY_AUTH_MODE`": "`token`: every process of a cluster shows the token. Set for clusters that the commands start.",
    "`RAY_AUTH_TOKEN_PATH`": "File of the token; `~/.ray/auth_token` by default.",
    "`RAY_AUTH_TOKEN`": "The token itself, instead of a file.",
    "`RAY_TRAIN_V2_ENABLED`": "Must not be `0`: trainings of several workers would not run.",
    "`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`": "User and password of the tracking server, where "
    "`~/.mlflow/credentials` is not used.",
}
"""Variables of Ray and MLflow that the commands read."""

INNER_VARIABLES: Mapping[str, str] = {
    "`RAYMLOPS_PROXY_TOKEN`": "What the proxy shows to replicas, so that they believe the address of a client that it tells.",
    "`RAYMLOPS_TRUSTED_RECORD`": "The version that a rebuilt environment reproduces.",
    "`RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER`": "`0` keeps Ray on loopback on one machine; `ray status` there needs it, too.",
    "`RAY_enable_autoscaler_v2`": "Ray's newer autoscaler, in clusters that the commands start.",
    "`MLFLOW_AUTH_CONFIG_PATH`, `MLFLOW_AUTH_ADMIN_USERNAME`, `MLFLOW_AUTH_ADMIN_PASSWORD`, "
    "`MLFLOW_FLASK_SERVER_SECRET_KEY`": "Set by `raymlops tracking-server` for MLflow's server.",
}
"""Variables that processes of ours set for one another."""


def default_rows(module: ModuleType, name: str, values: Mapping[str, str]) -> Iterator[Sequence[str]]:
    """Entries of a dict of variables, each with the comment that stands above it, or above those before it."""
    why = _comments_in(module, name)
    for variable, value in values.items():
        yield (
            code(variable),
            code(" ".join(value.split())) if value else "empty",
            sentence(why.get(variable, "")),
        )


def serve_rows() -> Iterator[Sequence[str]]:
    yield from default_rows(ray_serve_env, "FAST", ray_serve_env.FAST)
    for variable, told in SERVE_CHOSEN.items():
        yield code(variable), "chosen", told


SERVE_CHOSEN: Mapping[str, str] = {
    "RAY_SERVE_HAPROXY_NBTHREAD": "Threads of HAProxy: half the cores, 4 at most.",
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "For a folder of models: requests for a model go to the replica that has it.",
    "RAY_SERVE_HAPROXY_BINARY_PATH": "The script that guards HAProxy's configuration, `$RAYMLOPS_HOME/haproxy.sh`.",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "In a folder of this user only.",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "In the same folder.",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "In the same folder.",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "In the same folder.",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "In the same folder.",
}
"""Variables whose values depend on the machine or the spec."""


def _comments_in(module: ModuleType, name: str) -> dict[str, str]:
    """Key -> the comment above it; a key without one has that of the key before."""
    source = inspect.getsource(module)
    statement = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and _target(node) == name
    )
    assert isinstance(statement.value, ast.Dict)
    lines = [ast.literal_eval(key) for key in statement.value.keys if key is not None]
    places = {key.lineno: ast.literal_eval(key) for key in statement.value.keys if key is not None}
    found: dict[str, str] = {}
    comment: list[str] = []
    fresh = True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if not statement.lineno < line <= (statement.end_lineno or 0):
            continue
        if token.type == tokenize.COMMENT:
            comment = [token.string.lstrip("# ")] if fresh else [*comment, token.string.lstrip("# ")]
            fresh = False
        elif token.type == tokenize.STRING and line in places:
            found[places.pop(line)] = " ".join(comment)
            fresh = True
    assert set(found) == set(lines), f"{name} of {module.__name__} cannot be read"
    return found


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""
