"""A new interpreter has this process's package and path, whatever lies in the current directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import djinn_fx
from djinn_fx.files import interpreter


def test_the_package_is_this_one_and_the_path_is_as_given(tmp_path: Path) -> None:
    for name in ("json.py", "importlib.py", "djinn_fx.py"):
        (tmp_path / name).write_text("raise SystemExit('the one in the current directory')\n")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "djinn_fx").mkdir(parents=True)
    (elsewhere / "djinn_fx" / "__init__.py").write_text("raise SystemExit('another package')\n")
    path = [str(elsewhere), ".", "", *sys.path]
    code = "import json, sys, djinn_fx; print(json.dumps([djinn_fx.__file__, sys.path]))"
    command = interpreter.command("builtins:exec", code, path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [djinn_fx.__file__, list(dict.fromkeys(filter(os.path.isabs, path)))]


def test_why_there_is_no_main_is_told() -> None:
    reads, writes = os.pipe()
    command = interpreter.command("djinn_fx.nowhere:main", {}, sys.path, failing=(writes, {"event": "exit"}))
    done = subprocess.run(command, pass_fds=(writes,))
    os.close(writes)
    with os.fdopen(reads) as file:
        told = json.loads(file.read())
    assert done.returncode == 0
    assert told["event"] == "exit"
    assert "No module named 'djinn_fx.nowhere'" in told["tail"]


def test_it_goes_to_the_error_output_where_nobody_is_told() -> None:
    command = interpreter.command("djinn_fx.nowhere:main", {}, sys.path)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No module named 'djinn_fx.nowhere'" in done.stderr
