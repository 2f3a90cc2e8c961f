"""Inductor's cache folder is full, read-only or locked by a process that does not go on: nothing is raised for it."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from torch import nn

from djinn_fx.backend import compilations
from djinn_fx.engines.inductor import folder as inductor_folder
from djinn_fx.engines.inductor import prewarm
from djinn_fx.engines.inductor.folder import in_usable, is_at_fault, own_folder, patient
from djinn_fx.reasons import ReasonKind


def no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Inductor's folder, in which nothing can be written."""
    from torch._inductor import codecache

    folder = tmp_path / "full"
    folder.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    write = codecache.write_atomic

    def refused(path: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(path).is_relative_to(folder):
            no_space()
        return write(path, *args, **kwargs)

    monkeypatch.setattr(codecache, "write_atomic", refused)
    return folder


@pytest.mark.exam  # precompiled headers once more
def test_a_full_disk_costs_no_answer(full: Path) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()).eval(), torch.randn(3, 8)
    compiled = torch.compile(model, backend="djinn", options={"engine": "inductor"})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    (build,) = compilations()[-1].builds
    assert build.engine == "inductor"
    assert ReasonKind.FALLBACK not in {reason.kind for reason in build.reasons}
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(full)


def test_without_any_room_eager_answers_with_a_reason(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor_folder, "_own", no_space)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).eval(), torch.randn(3, 8)
    compiled = torch.compile(model, backend="djinn", options={"engine": "inductor"})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    (build,) = compilations()[-1].builds
    assert build.engine == "eager"
    assert ReasonKind.FALLBACK in {reason.kind for reason in build.reasons}


@pytest.mark.parametrize("where", ["torch._inductor.cpu_vec_isa.valid_vec_isa_list", "subprocess.run"])
def test_warming_up_raises_nothing(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, no_space)
    for cached in (prewarm.know_vector_units, prewarm.compiler_takes_vector_flags):
        monkeypatch.setattr(prewarm, cached.__name__, cached.__wrapped__)
    prewarm.know_vector_units()


def test_a_lock_that_somebody_holds_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import codecache

    monkeypatch.setattr(inductor_folder, "LOCK_PATIENCE_S", 0.05)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "shared"))
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with filelock.FileLock(Path(codecache.get_lock_dir()) / "kernel.lock"):
            held.set()
            let_go.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)

    def work() -> str:
        with filelock.FileLock(Path(codecache.get_lock_dir()) / "kernel.lock", timeout=codecache.LOCK_TIMEOUT):
            return codecache.get_lock_dir()

    before = codecache.LOCK_TIMEOUT
    with patient():
        found = in_usable(work)
    let_go.set()
    holder.join()
    assert not Path(found).is_relative_to(tmp_path)
    assert before == codecache.LOCK_TIMEOUT


def nested(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("while compiling") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "at_fault"),
    [(OSError(28, "full"), True), (filelock.Timeout("lock"), True), (ValueError("a kernel"), False)],
)
@pytest.mark.parametrize("wrapped", [lambda error: error, nested])
def test_what_is_the_folders_fault(
    wrapped: Callable[[Exception], Exception],
    error: Exception,
    at_fault: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert is_at_fault(wrapped(error)) is at_fault


def test_a_folder_that_takes_nothing_is_at_fault_whatever_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", no_space)
    assert is_at_fault(RuntimeError("Failed to reload cache entry from disk"))


@pytest.mark.parametrize("stump", [b"", b"\x7fELF", bytes(4096)])
def test_what_a_killed_compiler_left_is_taken_away(
    stump: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    library = tmp_path / "ab" / "kernel.main.so"
    library.parent.mkdir()
    library.write_bytes(stump)

    def work() -> str:
        if library.exists():
            raise nested(ImportError(f"{library}: file too short"))
        return os.environ["TORCHINDUCTOR_CACHE_DIR"]

    assert in_usable(work) == str(tmp_path)


def test_a_whole_library_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    library = Path(shutil.copy(torch._C.__file__, tmp_path / "kernel.so"))
    outside = tmp_path.parent / "outside.so"
    outside.write_bytes(b"")
    for path in (library, outside):
        with pytest.raises(RuntimeError):
            in_usable(lambda path=path: throw(nested(ImportError(f"{path}: undefined symbol"))))
        assert path.exists()


def throw(error: Exception) -> Any:
    raise error


def test_a_kernel_whose_compiler_was_killed_costs_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.cpp_builder import CppBuilder

    number, build, left = time.time_ns() / 2**61, CppBuilder.build, []  # no folder has its kernel yet

    def function(x: torch.Tensor) -> torch.Tensor:
        return (x * number).sigmoid() + 17.25

    def killed_once(self: CppBuilder) -> None:
        if left or not self.get_target_file_path().endswith(".so"):
            return build(self)
        left.append(Path(self.get_target_file_path()))
        return left[0].touch()

    prewarm.know_vector_units()  # which compiles libraries of its own
    monkeypatch.setattr(CppBuilder, "build", killed_once)
    compiled, x = torch.compile(function, backend="djinn", options={"engine": "inductor"}), torch.randn(3, 5)
    torch.testing.assert_close(compiled(x), function(x))
    assert compilations()[-1].builds[0].engine == "inductor"
    assert left[0].stat().st_size > 0


def test_the_variable_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "/somewhere"):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        if before is not None:
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before)
        with own_folder():
            assert os.environ["TORCHINDUCTOR_CACHE_DIR"] != before
        assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before
