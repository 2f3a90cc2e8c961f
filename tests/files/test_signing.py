"""The user's key: made once, whoever comes first; refused where others may know it; alone where it cannot be kept."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from djinn_fx.files import signing
from djinn_fx.files.signing import NotOurs, key_path, seal, signer, unseal
from djinn_fx.reasons import ReasonKind

_PRINT_KEY = "from djinn_fx.files.signing import signer; import sys; sys.stdout.write(signer().secret.hex())"


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CONFIG_DIR", str(tmp_path / "config"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_the_users_alone_and_stays() -> None:
    old = os.umask(0)
    try:
        first = signer()
    finally:
        os.umask(old)
    assert first.reason is None
    assert len(first.secret) == 32
    assert mode(key_path()) == 0o600
    assert mode(key_path().parent) == 0o700
    assert [path.name for path in key_path().parent.iterdir()] == [key_path().name]
    assert signer() == first
    signing._read_once.cache_clear()
    assert signer() == first, "read from the file as another process would"


def test_it_lies_in_the_users_configuration_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJINN_CONFIG_DIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert key_path().is_relative_to(tmp_path / "home" / "djinn_fx")


def test_a_home_that_nobody_has_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DJINN_CONFIG_DIR", "~nobody-of-this-name/config")
    assert signer().reason is None
    assert key_path().is_relative_to(tmp_path)


def test_processes_that_start_together_agree_on_one_key() -> None:
    started = [subprocess.Popen([sys.executable, "-c", _PRINT_KEY], stdout=subprocess.PIPE) for _ in range(6)]
    keys = {process.communicate(timeout=60)[0] for process in started}
    assert keys == {signer().secret.hex().encode()}


def test_a_file_system_without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert signer().reason is None
    assert signer().secret.hex() == key_path().read_text().strip()


def test_a_key_that_is_replaced_counts_from_then_on() -> None:
    old = signer()
    sealed = seal("what", {"a": 1})
    key_path().unlink()
    new = signer()
    assert new.secret != old.secret
    with pytest.raises(NotOurs):
        unseal("what", sealed)


def wrong_owner(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DOUBTS = {
    "others may read it": lambda path: path.chmod(0o640),
    "others may write it": lambda path: path.chmod(0o602),
    "somebody else's": wrong_owner,
    "a link": linked,
    "a pipe": piped,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "too long": lambda path: path.write_text("0" * 65 + "\n"),
    "no key": lambda path: path.write_text("x" * 64 + "\n"),
}


@pytest.mark.parametrize("doubt", DOUBTS.values(), ids=DOUBTS.keys())
def test_a_key_that_others_may_know_is_not_used(doubt: object, caplog: pytest.LogCaptureFixture) -> None:
    old = signer()
    doubt(key_path())  # type: ignore[operator]
    signing._read_once.cache_clear()
    with caplog.at_level("WARNING", "djinn_fx.store"):
        alone = signer()
        assert signer() is alone
    assert alone.secret != old.secret
    assert alone.reason is not None
    assert alone.reason.kind is ReasonKind.CACHE_UNUSABLE
    assert str(key_path()) in alone.reason.detail
    assert len(caplog.records) == 1


def test_an_empty_key_that_nobody_fills_is_waited_for_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    key_path().parent.mkdir(parents=True)
    os.close(os.open(key_path(), os.O_CREAT | os.O_WRONLY, 0o600))
    monkeypatch.setattr(signing, "_LOOKS", 2)
    assert signer().reason is not None


@pytest.mark.parametrize("where", ["the folder", "above it"])
def test_a_configuration_folder_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    blocked = tmp_path / "config" / signing.FOLDER if where == "the folder" else tmp_path / "config"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")
    first = signer()
    assert first.reason is not None
    assert signer() is first
    other = subprocess.run([sys.executable, "-c", _PRINT_KEY], capture_output=True, text=True, check=True)
    assert other.stdout != first.secret.hex(), "each process has one of its own"
    assert unseal("what", seal("what", [1])) == [1]


def test_a_child_that_is_forked_has_the_key_of_its_parent(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("in the way")
    mine = signer().secret
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, signer().secret)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(ours, 100) == mine


def test_what_was_sealed_comes_back_and_nothing_else_does() -> None:
    text = seal("profile", {"b": [1.5, None], "a": "é"})
    assert unseal("profile", text) == {"a": "é", "b": [1.5, None]}
    with pytest.raises(NotOurs):
        unseal("samples", text)
    for place in range(len(text)):
        for changed in (text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :], text[:place]):
            with pytest.raises(ValueError):
                unseal("profile", changed)
    for other in (b"", b"{}", b"[1]", b'{"sha256": "' + b"0" * 64 + b'", "content": {}}\n'):
        with pytest.raises(ValueError):
            unseal("profile", other)
