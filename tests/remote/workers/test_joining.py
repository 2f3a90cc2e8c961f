"""Processes that join a Ray which is there: several at once, and those that it does not let in."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'djinn-fx[ray]'")

from djinn_fx.remote.workers import guardian
from djinn_fx.remote.workers.cluster import RESOURCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
_HOLD = "import json, sys; from djinn_fx.remote.workers.guardian import main; main(json.loads(sys.argv[1]))"
_CLIENT = """
    import sys
    import torch, djinn_fx
    torch.manual_seed(int(sys.argv[2]))
    model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(4))).eval()
    pins = {"0-1": "worker:0", "2-3": "worker:1"}
    run = torch.compile(model, backend="djinn", options={"engine": "eager", "workers": sys.argv[1], "pin": pins})
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(3, 32)
            torch.testing.assert_close(run(x), model(x))
            print([region.device for region in djinn_fx.compilations()[-1].plan.regions], flush=True)
            sys.stdin.readline()  # all are asked while all are there
"""
_JOINING = """
    import sys
    from djinn_fx.remote.workers import cluster
    from djinn_fx.settings.workers import read_workers
    cluster.JOIN_S = 12.0
    cluster.Cluster(read_workers(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def there() -> Iterator[tuple[str, str]]:
    """Address and token of a Ray with room for two workers that somebody started."""
    token, mark = secrets.token_hex(32), secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="djinn-", dir="/tmp"))
    given = {
        "folder": str(folder),
        "workers": 2,
        "cpus": 2,
        "object_store_bytes": 2**27,
        "resource": RESOURCE,
        "out": 1,
    }
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, guardian.MARK: mark},
    ) as held:
        assert held.stdout is not None
        yield json.loads(held.stdout.readline())["address"], token
        assert held.stdin is not None
        held.stdin.close()
        held.wait(60)
    guardian.remove(folder)


@pytest.fixture(scope="module", autouse=True)
def wrong(there: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process with another token, begun first: it waits for twelve seconds, in which the others are asked."""
    joining = started(_JOINING, there[0], RAY_AUTH_TOKEN="0" * 64, RAY_TMPDIR=str(tmp_path_factory.mktemp("wrong")))
    yield joining
    joining.kill()
    joining.communicate()


def started(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("RAY_")}, **environment},
    )


def test_two_processes_have_their_workers_side_by_side(there: tuple[str, str]) -> None:
    address, token = there
    clients = [started(_CLIENT, address, str(seed), RAY_AUTH_TOKEN=token) for seed in range(2)]
    try:
        for _ in range(3):
            said = [one.stdout.readline() for one in clients if one.stdout is not None]
            assert said == ["['worker:0', 'worker:1']\n"] * 2
            for one in clients:
                assert one.stdin is not None
                one.stdin.write("\n")
                one.stdin.flush()
        assert [one.wait(60) for one in clients] == [0, 0]
    finally:
        for one in clients:
            one.kill()
            one.communicate()


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("", id="wrong token"),
        pytest.param("127.0.0.1:1", id="nobody there", marks=pytest.mark.exam),
        pytest.param("auto", id="auto", marks=pytest.mark.exam),
    ],
)
def test_who_is_not_let_in_has_one_error(
    there: tuple[str, str], wrong: subprocess.Popen[str], address: str, tmp_path: Path
) -> None:
    joining = started(_JOINING, address, RAY_AUTH_TOKEN="0" * 64, RAY_TMPDIR=str(tmp_path)) if address else wrong
    _, said = joining.communicate(timeout=100)
    assert joining.returncode == 1
    assert f"EngineError: the Ray at {address or there[0]} does not let us in: " in said.splitlines()[-1]
