"""The disk cache between processes: one builder a key, readers beside writers, and writers that die half way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from djinn_fx.store.store import Store
from tests.waiting import until

KEY, OTHER = "a" * 64, "b" * 64

PRELUDE = """
import os, sys, time
from pathlib import Path
from djinn_fx.store.store import Store
root, key = Path(sys.argv[1]), sys.argv[2]
store = Store(root / "cache")
"""

# Each builder says that it is there and waits for the others, so that all ask for the lock at the same time.
BUILDER = """
(root / f"ready{os.getpid()}").touch()
while len(list(root.glob("ready*"))) < 3:
    time.sleep(0.005)
if store.get(key) is None:
    with store.lock(key, 60) as held:
        assert held
        if store.get(key) is None:
            (root / f"build{os.getpid()}").touch()
            time.sleep(0.3)
            assert store.put(key, {"by": os.getpid()}, b"built")
print(store.get(key).header["by"])
"""

DIES_BEFORE_RENAME = """
os.replace = lambda *paths: os._exit(7)
store.put(key, {}, b"new" * 1000)
"""

DIES_HOLDING_THE_LOCK = """
with store.lock(key, 10) as held:
    os._exit(7 if held else 1)
"""

HOLDS_THE_LOCK = """
with store.lock(key, 10) as held:
    print(held, flush=True)
    sys.stdin.readline()
"""

WRITES_UNTIL_TOLD = """
count = 0
while not (root / "enough").exists():
    count += 1
    assert store.put(key, {"n": count}, bytes([count % 256]) * 100_000)
"""


def start(script: str, root: Path, key: str = KEY) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(root), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def run(script: str, root: Path, key: str = KEY) -> int:
    with start(script, root, key) as process:
        process.communicate(timeout=60)
    return process.returncode


def test_processes_that_want_the_same_key_build_it_once(tmp_path: Path) -> None:
    builders = [start(BUILDER, tmp_path) for _ in range(3)]
    answers = [builder.communicate(timeout=60)[0].strip() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert len(list(tmp_path.glob("build*"))) == 1
    assert len(set(answers)) == 1, "all got the one that was built"


def test_a_lock_keeps_others_out_for_its_key_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with start(HOLDS_THE_LOCK, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        began = time.monotonic()
        with store.lock(KEY, 0.2) as held:
            assert not held
        assert time.monotonic() - began >= 0.2
        with store.lock(OTHER, 0) as held:
            assert held
        holder.communicate("\n", timeout=60)
    with store.lock(KEY, 0) as held:
        assert held


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    assert run(DIES_HOLDING_THE_LOCK, tmp_path) == 7
    with Store(tmp_path / "cache").lock(KEY, 0) as held:
        assert held


@pytest.mark.parametrize("before", [None, b"old"], ids=["no entry before", "an entry before"])
def test_a_writer_that_dies_before_the_rename_changes_nothing(tmp_path: Path, before: bytes | None) -> None:
    store = Store(tmp_path / "cache")
    if before is not None:
        store.put(KEY, {}, before)
    assert run(DIES_BEFORE_RENAME, tmp_path) == 7
    found = store.get(KEY)
    assert (found.payload if found else None) == before
    assert store.verify() == []
    (left,) = (store.root / "scratch").iterdir()
    assert left.stat().st_size > 3000, "the test is about a file that was written"

    os.utime(left, (1000, 1000))
    store.put(OTHER, {}, b"")
    assert not left.exists()
    assert store.put(KEY, {}, b"new")


def test_a_reader_beside_a_writer_sees_whole_entries_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    seen = set()

    def enough() -> bool:
        entry = store.get(KEY)
        if entry is not None:
            seen.add(entry.header["n"])
            assert entry.payload == bytes([entry.header["n"] % 256]) * 100_000
        return len(seen) >= 20 or writer.poll() is not None

    with start(WRITES_UNTIL_TOLD, tmp_path) as writer:
        try:
            assert until(enough)
        finally:
            (tmp_path / "enough").touch()
    assert writer.returncode == 0
    assert store.counters.corrupt == 0
    assert len(seen) >= 20, "the writer wrote while we read"


def test_the_cache_and_its_command_do_not_import_torch() -> None:
    script = "import sys, djinn_fx.cli.main; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", script], env=env, check=False).returncode == 0
