"""The command ``djinn cache``: what it prints, its exit codes, and that mistakes are one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import djinn_fx
from djinn_fx.cli import cache as cache_cli
from djinn_fx.cli.main import main
from djinn_fx.store.store import Store

FIELDS = {"phase": "decode", "engine": {"name": "inductor", "versions": {"torch": "2.13.0"}}, "devices": ["cpu"]}
CANONICAL = {"inputs": [[2, 3]], "ops": [["aten.add", 0, 1], ["aten.mul", 1, 2]], "outputs": [2]}
A, B, C = "a" * 64, "b" * 64, "bc" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two entries that differ in the torch version; ``A`` was used last."""
    made = Store(tmp_path / "cache")
    older = {**FIELDS, "engine": {"name": "inductor", "versions": {"torch": "2.12.1"}}}
    made.put(A, {"engine": "inductor", "label": "layer 0", "fields": FIELDS, "canonical": CANONICAL}, b"x" * 1500)
    made.put(B, {"engine": "inductor", "label": "layer 1", "fields": older, "canonical": CANONICAL}, b"x")
    os.utime(made.entry_path(B), (1000, 1000))
    return made


class Ran:
    """What a command printed, and its exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str], store: Store, *words: str) -> None:
        self.code = main(["cache", *words, "--dir", str(store.root)])
        self.out, self.err = capsys.readouterr()
        self.lines = self.out.splitlines()


def test_ls_lists_the_last_used_first(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, store, "ls")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.lines] == ["key", A, B, "2"]
    assert ran.lines[1].endswith("inductor  layer 0")
    assert "1970-01-01" in ran.lines[2]
    assert ran.lines[1].index("layer 0") == ran.lines[0].index("label"), "columns are aligned"
    assert "\x1b" not in ran.out


def test_ls_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, Store(tmp_path / "none"), "ls")
    assert (ran.code, len(ran.lines)) == (0, 1)
    assert ran.out.startswith("0 entries")
    assert not (tmp_path / "none").exists()


def test_without_dir_it_is_the_cache_of_the_settings(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(store.root))
    assert main(["cache", "ls"]) == 0
    assert A in capsys.readouterr().out
    (tmp_path / "djinn.yaml").write_text(f"cache_dir: {tmp_path / 'other'}\ncache_limit: 5GB\n")
    monkeypatch.delenv("DJINN_CACHE_DIR")
    monkeypatch.chdir(tmp_path)
    assert main(["cache", "ls"]) == 0
    assert capsys.readouterr().out == f"0 entries, 0 B of 5.0 GB in {tmp_path / 'other'}\n"


def test_on_a_terminal_a_table_is_drawn(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(C, {"label": "[bold]x\x1b[2J", "fields": {}}, b"")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    ran = Ran(capsys, store, "ls")
    assert ran.code == 0
    assert "┃" in ran.out
    assert A[:12] in ran.out
    assert A not in ran.out
    assert "[bold]x\\x1b[2J" in ran.out, "neither markup nor a control sequence"


def test_why_shows_the_changed_field(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, store, "why", "aa")
    assert ran.code == 0
    assert ran.lines[0].endswith(A)
    assert B in ran.lines[1]
    assert [line.split() for line in ran.lines[2:]] == [
        ["field", "this", "key", "stored"],
        ["engine.versions.torch", "2.13.0", "2.12.1"],
    ]


def test_why_takes_the_hash_of_a_region(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"structural_hash": "5e" * 32}
    store.put(C, {"label": "layer 7", "engine": "inductor", "fields": fields}, b"")
    ran = Ran(capsys, store, "why", "5e5e5e5e5e5e")
    assert (ran.code, ran.lines[0]) == (0, f"entry layer 7: {C}")
    store.put("d" * 64, {"label": "layer 7", "engine": "openvino", "fields": fields}, b"")
    ran = Ran(capsys, store, "why", "5e5e5e5e5e5e")
    assert ran.code == 2
    assert f"{C[:12]} inductor" in ran.err
    assert f"{'d' * 12} openvino" in ran.err


def test_ls_says_what_is_no_artefact(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.put(C, {"label": "layer 7", "what": "times"}, b"")
    store.put("d" * 64, {"label": "layer 8", "what": "decision", "engine": "eager"}, b"")
    told = "\n".join(Ran(capsys, store, "ls").lines)
    assert "times of layer 7" in told
    assert "eager     outcome of a trial: layer 8" in told


def test_why_last_miss_compares_with_the_nearest_other_entry(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    changed = {**CANONICAL, "ops": [["aten.add", 0, 1], ["aten.sub", 1, 2]]}
    fields = {**FIELDS, "devices": ["cuda:0"], "flags": ["fast"]}
    store.record_miss(C, fields, changed)
    store.put(C, {"label": "built since", "fields": fields, "canonical": changed}, b"")
    ran = Ran(capsys, store, "why", "last-miss")
    assert ran.code == 0
    assert C in ran.lines[0]
    assert A in ran.lines[1], "not the missed key itself, and not B, which differs in one field more"
    assert [line.split()[0] for line in ran.lines[3:]] == ["devices[0]", "flags", "canonical.ops[1][0]"]
    assert ran.lines[3].split()[1:] == ["cuda:0", "cpu"]
    assert ran.lines[4].split("  ")[-1].strip() == "(absent)"
    assert Ran(capsys, store, "why", C).lines[1:] == ran.lines[1:]


def test_why_a_key_that_missed_and_was_not_stored(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.record_miss(C, {**FIELDS, "phase": "prefill"})
    ran = Ran(capsys, store, "why", C)
    assert ran.lines[3].split() == ["phase", "prefill", "decode"]


def test_why_cuts_a_long_canonical_difference(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.record_miss(C, FIELDS, {**CANONICAL, "ops": [f"op{number}" for number in range(50)]})
    ran = Ran(capsys, store, "why", "last-miss")
    rows = [line for line in ran.lines if line.startswith("canonical.")]
    assert len(rows) == cache_cli.MAX_CANONICAL_ROWS
    assert ran.lines[-1] == "... and 30 more places in the canonical form"


def test_why_says_when_nothing_recorded_differs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.record_miss(C, FIELDS, CANONICAL)
    assert "not recorded" in Ran(capsys, store, "why", "last-miss").lines[-1]


def test_why_with_nothing_to_compare_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "cache")
    store.record_miss(C, FIELDS)
    ran = Ran(capsys, store, "why", "last-miss")
    assert (ran.code, len(ran.lines)) == (0, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["why", "last-miss"], "no miss"),
        (["why", "c"], "begins with 'c'"),
        (["why", ""], "begins with ''"),
        (["why", "b"], "2 entries"),
        (["import", "no-such-file"], "no-such-file: No such file or directory"),
        (["export", "no/such/folder/x.tar"], "No such file or directory"),
        (["import", __file__], "not a bundle"),
        (["clear"], "--yes"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    store: Store,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    store.put("b1" * 32, {}, b"")
    ran = Ran(capsys, store, *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert said in ran.err
    assert len(store.entries()) == 3


def test_an_unsafe_directory_is_one_line(store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.root)
    assert main(["cache", "clear", "--yes", "--dir", str(tmp_path / "link")]) == 2
    assert "symbolic link" in capsys.readouterr().err
    assert len(store.entries()) == 2


def test_verify(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, store, "verify").code == 0
    store.entry_path(A).write_bytes(b"damaged")
    ran = Ran(capsys, store, "verify")
    assert (ran.code, ran.lines[1].split()[0]) == (1, A)
    assert store.entry_path(A).exists()
    ran = Ran(capsys, store, "verify", "--remove")
    assert ran.code == 0
    assert "1 problem, 1 removed" in ran.lines[-1]
    assert [entry.key for entry in store.entries()] == [B]


def test_clear(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, store, "clear", "--yes")
    assert (ran.code, ran.lines) == (0, [f"2 entries deleted from {store.root}"])
    assert store.entries() == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_clear_asks_on_a_terminal(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    stdin = io.StringIO(answer)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert Ran(capsys, store, "clear").code == (0 if left == 0 else 2)
    assert len(store.entries()) == left


def test_export_and_import(store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, other = tmp_path / "bundle.tar", Store(tmp_path / "other")
    assert Ran(capsys, store, "export", str(file)).lines == [f"2 entries written to {file}"]
    ran = Ran(capsys, other, "import", str(file))
    assert (ran.code, ran.lines) == (0, [f"2 entries imported into {other.root}, 0 skipped"])
    ran = Ran(capsys, other, "import", str(file))
    assert ran.code == 0, "what is there already is no fault"
    assert [line.split()[0] for line in ran.lines] == ["skipped", A, B, "0"]
    data = bytearray(file.read_bytes())
    data[600] ^= 1
    file.write_bytes(data)
    other.clear()
    ran = Ran(capsys, other, "import", str(file))
    assert (ran.code, ran.lines[1].split()[0]) == (1, A)
    assert [entry.key for entry in other.entries()] == [B]


def test_where_nothing_is_to_be_kept_importing_drops_nothing(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.tar"
    assert Ran(capsys, store, "export", str(bundle)).code == 0
    store.clear()
    monkeypatch.setenv("DJINN_CACHE_LIMIT", "0")
    assert Ran(capsys, store, "import", str(bundle)).code == 0
    assert {entry.key for entry in store.entries()} == {A, B}


@pytest.mark.parametrize("words", [[], ["cache"], ["cache", "why"], ["cache", "nonsense"], ["nonsense"]])
def test_bad_arguments_are_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "usage: djinn" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"djinn-fx {djinn_fx.__version__}\n"


def test_explain_gets_the_rest_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    command = pytest.importorskip("djinn_fx.explain.__main__")
    seen: list[list[str]] = []

    def explain(words: list[str]) -> int:
        seen.append(words)
        return 1

    monkeypatch.setattr(command, "main", explain)
    assert main(["explain", "model.py", "--json", "-", "--help"]) == 1
    assert seen == [["model.py", "--json", "-", "--help"]]


def piped(*words: str, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", "djinn_fx", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def test_a_reader_that_leaves_early_gets_no_traceback(store: Store) -> None:
    with piped("cache", "ls", "--dir", str(store.root)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_label_the_encoding_lacks_is_printed_all_the_same(store: Store) -> None:
    store.put(C, {"label": "größe"}, b"")
    with piped("cache", "ls", "--dir", str(store.root), PYTHONIOENCODING="ascii") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "gr\\xf6\\xdfe" in out


def test_a_directory_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with piped("cache", "ls", "--dir", str(tmp_path / "file" / "cache")) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert "Not a directory" in err
