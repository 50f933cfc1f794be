"""Runs wrk for a few seconds and reads its figures. wrk is in Debian's packages: apt-get install wrk."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

_SCRIPT = """
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()
wrk.method = "POST"
wrk.headers["Content-Type"] = {content_type}
{headers}
done = function(summary, latency, requests)
  io.write(string.format("FIGURES %d %d %.1f %.1f %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


_MIX = """
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
local ready, order, turn = {{}}, {{}}, 0
init = function()
  for line in io.lines({mix}) do
    local path, name = line:match("(%S+) (%S+)")
    if not ready[line] then
      wrk.headers["serve_multiplexed_model_id"] = name
      ready[line] = wrk.format("POST", path)
    end
    order[#order + 1] = ready[line]
  end
end
request = function()
  turn = turn % #order + 1
  return order[turn]
end
done = function(summary, latency, requests)
  io.write(string.format("FIGURES %d %d %.1f %.1f %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclasses.dataclass(frozen=True)
class Figures:
    """Requests a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


def measure(
    url: str, body: bytes, *, connections: int, seconds: float, headers: dict[str, str] | None = None
) -> Figures:
    """Send the same request over and over on so many connections. Raises RuntimeError without wrk."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is missing; install it (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "body").write_bytes(body)
        lines = "\n".join(
            f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in (headers or {}).items()
        )
        script = _SCRIPT.format(
            body=json.dumps(str(path / "body")), content_type='"application/json"', headers=lines
        )
        (path / "post.lua").write_text(script)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "30s"]
        output = subprocess.run(
            [*command, "-s", str(path / "post.lua"), url], capture_output=True, text=True, check=True
        ).stdout
    return _read(output)


def measure_mix(
    url: str, body: bytes, mix: list[tuple[str, str]], *, connections: int, seconds: float
) -> Figures:
    """As `measure`, over a list of paths and model names in turn; Ray Serve finds the name in its own
    header."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "body").write_bytes(body)
        (path / "mix").write_text("".join(f"{where} {name}\n" for where, name in mix))
        files = {"body": json.dumps(str(path / "body")), "mix": json.dumps(str(path / "mix"))}
        (path / "mix.lua").write_text(_MIX.format(**files))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "30s"]
        output = subprocess.run(
            [*command, "-s", str(path / "mix.lua"), url], capture_output=True, text=True, check=True
        ).stdout
    return _read(output)


def _read(output: str) -> Figures:
    found = re.search(r"FIGURES (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+) (\d+)", output)
    if found is None:
        raise RuntimeError(f"wrk said: {output}")
    requests, microseconds, p50, p99, statuses, errors = (float(text) for text in found.groups())
    return Figures(requests / microseconds * 1e6, p50 / 1000, p99 / 1000, int(statuses + errors))
