"""``djinn workers`` where nothing is to be had; what it shows is tested on a real Ray in tests/remote/workers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from djinn_fx.cli.main import main


def test_ray_that_is_not_installed_is_one_line_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["workers", "--workers", "local:2"]) == 1
    told = capsys.readouterr().err
    assert "pip install 'djinn-fx[ray]'" in told
    assert len(told.splitlines()) == 1


def test_without_a_token_no_ray_is_joined(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'djinn-fx[ray]'")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert main(["workers", "--workers", "127.0.0.1:6399"]) == 2
    assert "RAY_AUTH_TOKEN" in capsys.readouterr().err


def test_rays_client_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'djinn-fx[ray]'")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    assert main(["workers", "--workers", "ray://127.0.0.1:10001"]) == 2
    assert "ray start --address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["workers"], "--workers local:2"),
        (["workers", "--workers", "local:0"], "workers"),
        (["workers", "--workers", "local:2", "--topology", "links.yaml"], "measure"),
        (["workers", "measure", "--workers", "local:2", "--topology", "nowhere/links.yaml"], "no directory"),
        (["worker"], "name"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(words) == 2
    assert told in capsys.readouterr().err
