"""``djinn sessions``: what other processes tell, and what cannot be read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import djinn_fx
from djinn_fx.cli.main import main
from djinn_fx.cli.sessions import read_all
from djinn_fx.sessions.session import open_sessions
from djinn_fx.sessions.status import status_folder, status_of
from tests.sessions.models import build, tokens


def test_it_shows_pools_sessions_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    made = build("full")
    manager = open_sessions(made, device=20 * 8192, host=100 * 8192)
    with djinn_fx.session(made, "agent-1", tenant="acme") as one, djinn_fx.session(made, "agent-2") as other:
        for each in (one, other):
            each.generate(tokens(200, ord(each.id[-1])), max_new_tokens=1)
        other.generate(tokens(60, 5), max_new_tokens=1)
        told = {"pid": os.getpid(), "at": time.time(), "models": [status_of(manager).to_json()]}
        status_folder().mkdir(parents=True, exist_ok=True)
        (status_folder() / "status-1.json").write_text(json.dumps(told))
        assert main(["sessions"]) == 0
        printed = capsys.readouterr().out
        for word in ("agent-1", "acme", "LlamaForCausalLM", "host", "evicted"):
            assert word in printed
        assert main(["sessions", "--json", "--reasons", "0"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[0])["pid"] == os.getpid()
    manager.close()


def test_a_process_tells_of_itself_within_seconds_and_no_more_when_it_is_done() -> None:
    made = build("full")
    manager = open_sessions(made, device=20 * 8192, host=0)
    own = status_folder() / f"status-{os.getpid()}.json"
    for _ in range(300):
        if own.exists():
            break
        time.sleep(0.05)
    assert own.stat().st_mode & 0o077 == 0
    assert read_all(status_folder())
    manager.close()
    for _ in range(300):
        if not own.exists():
            break
        time.sleep(0.05)
    assert not own.exists()


def test_what_is_dead_damaged_or_no_file_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = status_folder()
    folder.mkdir(parents=True)
    (folder / "status-1.json").write_text("{")
    (folder / "status-2.json").write_text(json.dumps({"pid": 2**22 + 5, "models": []}))
    (folder / "status-3.json").write_text(json.dumps({"pid": "x", "models": []}))
    (folder / "status-4.json").symlink_to(tmp_path)
    os.mkfifo(folder / "status-5.json")
    assert main(["sessions"]) == 1
    assert "no process" in capsys.readouterr().out
