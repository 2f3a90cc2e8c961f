"""Workers behind a slow link, which is then cut: two hosts of a Ray are network namespaces, a shaped pair between."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.links.namespaces import NEAR, namespaces

pytest.importorskip("ray", reason="Ray is not installed: pip install 'djinn-fx[ray]'")
pytestmark = pytest.mark.exam

ROOT = Path(__file__).resolve().parents[2]
NEAR_END, FAR_END, PORT = "10.77.1.1", "10.77.1.2", 6399

#: Calls over the link, then without it.
DRIVER = """
import json, sys, time
import torch
from djinn_fx.compiling.workers.spread import _KNOWN
from djinn_fx.remote.workers import pool as pools

torch.manual_seed(0)
model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(4))).eval()
pins = {"0-1": "worker:0", "2-3": "worker:1"}
options = {"workers": sys.argv[1], "engine": "eager", "worker_timeout": "3s", "pin": pins}
run = torch.compile(model, backend="djinn", options=options)

def call(rows):
    x = torch.randn(rows, 256)
    began = time.monotonic()
    with torch.no_grad():
        right = torch.allclose(run(x), model(x), rtol=1e-5, atol=1e-5)
    return right, time.monotonic() - began

found = [call(4)[0] for _ in range(5)]
(known,) = _KNOWN.values()
rates = {name: link.bandwidth_bytes_s for name, link in known.links.items()}
print(json.dumps({"right": found, "rates": rates, "devices": len(known.pool.workers)}), flush=True)
sys.stdin.readline()
print(json.dumps({"after": [call(4) for _ in range(3)], "lost": sorted(known.pool.lost())}), flush=True)
import os
os._exit(0)  # Ray's goodbye waits for machines that cannot be reached
"""


@pytest.fixture
def hosts() -> Iterator[dict[str, list[str]]]:
    """A Ray over two hosts: the near one has no workers, the far one two."""
    with namespaces() as spaces:
        if spaces is None:
            pytest.skip("no network namespaces here: they take root and iproute2")
        folder = tempfile.mkdtemp(prefix="dj", dir="/tmp")
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "TMPDIR": folder}
        os.environ.update(environment)
        ray = str(Path(sys.executable).with_name("ray"))
        quiet = ["--disable-usage-stats", "--object-store-memory", str(2**28)]
        head = ["--head", f"--node-ip-address={NEAR_END}", f"--port={PORT}", "--num-cpus=1"]
        node = [f"--address={NEAR_END}:{PORT}", f"--node-ip-address={FAR_END}", "--num-cpus=2"]
        node += ["--resources", json.dumps({"djinn_worker": 2})]
        head += ["--include-dashboard=false", f"--temp-dir={folder}/r"]
        try:
            for space, arguments in (("a", head), ("r", node)):
                subprocess.run(
                    [*spaces[space], ray, "start", *quiet, *arguments], check=True, timeout=120, capture_output=True
                )
            yield spaces
        finally:
            for space in "ar":
                pids = subprocess.run(["ip", "netns", "pids", spaces[space][-1]], capture_output=True, text=True).stdout
                for pid in pids.split():
                    subprocess.run(["kill", "-9", pid], check=False)
            for name in environment:
                os.environ.pop(name, None)
            shutil.rmtree(folder, ignore_errors=True)


def test_a_slow_link_is_measured_and_one_that_is_cut_is_not_waited_for(hosts: dict[str, list[str]]) -> None:
    driver = subprocess.Popen(
        [*hosts["a"], sys.executable, "-c", DRIVER, f"{NEAR_END}:{PORT}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    try:
        lines = (json.loads(line) for line in driver.stdout if line.startswith("{"))
        before = next(lines)
        assert all(before["right"])
        # There at 50 MB/s, back at 12.5: a frame that is sent back takes its bytes there.
        assert all(rate < 1.2 * NEAR[0] for rate in before["rates"].values())
        end = subprocess.run(
            [*hosts["a"], "ip", "-o", "link", "show", "type", "veth"], capture_output=True, text=True, check=True
        ).stdout.split(":")[1].split("@")[0].strip()  # fmt: skip
        subprocess.run([*hosts["a"], "ip", "link", "set", end, "down"], check=True)
        driver.stdin.write("\n")
        driver.stdin.flush()
        after = next(lines)
        assert all(right for right, _ in after["after"])
        assert after["lost"] == ["worker:0", "worker:1"]
        assert max(seconds for _, seconds in after["after"]) < 40
    finally:
        driver.kill()
        driver.communicate()
