"""The process that holds a Ray instance of our own: it ends Ray and removes its files when its parent is gone.

Ray's own processes die with the one that started them, but its folder stays, and a thread that ends would take them
with it. So neither the user's process starts them nor one of its threads: this one does, and it lives exactly as long
as the pipe from its parent is open.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: In the environment of everything that this Ray starts, so that nothing of it is overlooked.
MARK = "_DJINN_RAY"
#: Ray's own processes without which there is none.
CORE = ("raylet", "gcs_server")
#: Seconds between two looks at these.
LOOK_S = 0.5
#: Seconds that Ray's processes have to end by themselves.
PATIENCE_S = 5.0


def main(given: Mapping[str, Any]) -> None:
    """Start Ray, say where it is, and wait for the parent to close its end.

    Args:
        given: ``folder`` (for Ray's files, removed at the end), ``workers``, ``cpus``, ``object_store_bytes``, and
            ``out``, the descriptor that one line of JSON is written to: ``address`` or ``error``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder = Path(given["folder"])
    try:
        said = _started(given)
        _say(given["out"], said)
        core = core_of(said)
        while not select.select([sys.stdin], [], [], LOOK_S)[0] and runs(core):
            pass  # until the parent closes its end, or Ray is no more: what is left of it is then ended too
    finally:
        _end(folder)


def _started(given: Mapping[str, Any]) -> dict[str, str]:
    try:
        ray: Any = importlib.import_module("ray")
        found = ray.init(
            num_cpus=given["cpus"],
            num_gpus=0,
            resources={given["resource"]: given["workers"]},
            object_store_memory=given["object_store_bytes"],
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(Path(given["folder"]) / "r"),  # which Ray opens to everybody: the folder around it does not
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        return {"error": f"{type(error).__name__}: {error}"}
    core = ",".join(str(pid) for pid in marked(os.environ[MARK]) if command_of(pid) in CORE)
    return {"address": str(found.address_info["gcs_address"]), "core": core}


def runs(core: Sequence[int]) -> bool:
    """Whether Ray's own processes are all there."""
    return all(command_of(pid) in CORE for pid in core)


def command_of(pid: int) -> str:
    """The name of a process; empty if it is over."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return "" if rest.split()[0] in ("Z", "X") else name


def core_of(said: Mapping[str, str]) -> tuple[int, ...]:
    """Those processes, as they are told beside Ray's address."""
    return tuple(int(pid) for pid in said.get("core", "").split(",") if pid)


def _say(out: int, what: Mapping[str, str]) -> None:
    with contextlib.suppress(OSError):  # the parent is gone: the pipe's end says so too
        os.write(out, json.dumps(what).encode() + b"\n")


def _end(folder: Path) -> None:
    """End Ray, then whatever it left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(Exception):  # what it does not end is killed
        ray: Any = importlib.import_module("ray")
        ray.shutdown()
    until = time.monotonic() + PATIENCE_S
    while left := marked(os.environ[MARK]):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    remove(folder)


def remove(folder: Path) -> None:
    """Remove Ray's folder, more than once where somebody who ends still writes into it."""
    until = time.monotonic() + PATIENCE_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def marked(mark: str) -> list[int]:
    """Other processes of this user's whose environment bears the mark."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
