"""Weights that lie in a file: the same values at the same addresses for everybody, and no memory while nobody looks."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from djinn_fx.engines.bound import filed
from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.engines.bound.mappings import Mappings
from djinn_fx.engines.bound.userfaultfd import PAGE
from djinn_fx.engines.bound.watch import Watch
from djinn_fx.engines.registry import engine as engine_named
from djinn_fx.settings.table import Settings
from tests.forking import in_fork

pytestmark = pytest.mark.skipif(
    filed._why_not() is not None, reason=f"weights cannot be moved here: {filed._why_not()}"
)


@pytest.fixture(autouse=True)
def on_a_disk(tmp_path: Path) -> None:
    if filed._file_system(tmp_path) in filed._IN_MEMORY:
        pytest.skip(f"{tmp_path} lies in memory: no file to move weights into")


def a_weight(pages: int = 600) -> torch.Tensor:
    """In memory that nobody had before."""
    memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    weight = torch.frombuffer(memory, dtype=torch.float32)
    torch.arange(pages * PAGE // 4, dtype=torch.float32, out=weight)
    return weight


def pages_of(weight: torch.Tensor) -> tuple[int, int]:
    start = -(-weight.data_ptr() // PAGE) * PAGE
    return start, (weight.data_ptr() + weight.nbytes) // PAGE * PAGE


def resident(weight: torch.Tensor) -> tuple[int, int]:
    """How many of a weight's pages are memory of its own, and how many show the file at the moment."""
    start, end = pages_of(weight)
    with open("/proc/self/pagemap", "rb", buffering=0) as table:
        table.seek(start // PAGE * 8)
        entries = numpy.frombuffer(table.read((end - start) // PAGE * 8), numpy.uint64)
    present, of_file = entries >> numpy.uint64(63) & numpy.uint64(1), entries >> numpy.uint64(61) & numpy.uint64(1)
    return int((present & (1 - of_file)).sum()), int((present & of_file).sum())


def moved(folder: Path, weight: torch.Tensor) -> torch.Tensor:
    assert filed.move([weight], folder) is None
    return weight


def test_values_addresses_and_views_stay(tmp_path: Path) -> None:
    weight = a_weight()
    view, array, address, expected = weight[5:9000], weight.numpy(), weight.data_ptr(), weight.clone()
    moved(tmp_path, weight)
    filed.page_out()
    assert weight.data_ptr() == address
    assert torch.equal(weight, expected)
    view.fill_(-1)
    assert (array[5:9000] == -1).all()
    assert (array[9000:] == expected[9000:].numpy()).all()
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_pages_are_given_back_and_only_what_is_written_becomes_memory(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    filed.page_out()
    assert sum(resident(weight)) <= 60  # of 600: the kernel may be busy with some
    weight[100 * PAGE // 4] = 7.0
    assert resident(weight)[0] == 1
    filed.page_out()
    assert weight[100 * PAGE // 4] == 7.0
    assert resident(weight)[0] == 1


def test_what_was_written_stays_when_it_is_bound_again(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    weight.mul_(2)
    moved(tmp_path, weight)
    filed.page_out()
    assert torch.equal(weight, 2 * a_weight())


def test_views_of_one_memory_are_moved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, written = a_weight(), []
    real = os.pwrite
    monkeypatch.setattr(
        filed.os, "pwrite", lambda file, memory, at: (written.append(len(memory)), real(file, memory, at))[1]
    )
    parts = [base[: base.numel() // 2], base, base[base.numel() // 4 :]]
    assert filed.move(parts, tmp_path) is None
    start, end = pages_of(base)
    assert sum(written) == end - start, "each page once before it is replaced"
    assert torch.equal(base, a_weight())


@pytest.mark.parametrize("second", [True, False])
def test_a_write_between_the_copy_and_the_move_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    weight, real = a_weight(), os.pwrite
    if not second:  # the file cannot be written again while others wait: there is no such system call
        ioctl, _, exchange = filed._CALLS[platform.machine()]
        monkeypatch.setitem(filed._CALLS, platform.machine(), (ioctl, 100_000, exchange))
    place = (pages_of(weight)[0] - weight.data_ptr()) // 4 + 11

    def late(file: int, memory: Any, at: int) -> int:
        count = real(file, memory, at)
        if at == 0:
            weight[place] = -3.0
        return count

    monkeypatch.setattr(filed.os, "pwrite", late)
    moved(tmp_path, weight)
    expected = a_weight()
    expected[place] = -3.0
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("touched", [True, False])
def test_writes_of_other_threads_while_it_is_moved(tmp_path: Path, touched: bool) -> None:
    memory = mmap.mmap(-1, 4000 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # all of it the page of zeros
    weight, stop, counts = torch.frombuffer(memory, dtype=torch.float32), threading.Event(), [0] * 4
    if touched:
        weight.fill_(0)

    def write(number: int) -> None:
        """By torch, or by numpy, which holds Python's lock; some all over, some the same few again and again."""
        random, places = Random(number), weight.numel() // 4 if number % 2 else 50
        into: Any = weight.numpy() if number < 2 else weight
        while not stop.is_set():
            into[4 * random.randrange(places) * (1 if number % 2 else 997) + number] += 1.0
            counts[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    time.sleep(0.05)
    moved(tmp_path, weight)
    time.sleep(0.05)
    stop.set()
    for one in threads:
        one.join()
    assert [int(weight[number::4].sum()) for number in range(4)] == counts


def test_writes_are_seen(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    watch = Watch([weight])
    filed.page_out()
    assert watch.holds([weight])
    assert sum(resident(weight)) <= 60  # looking has not brought it back
    assert float(weight.sum()) > 0
    assert watch.holds([weight])
    weight.data.numpy()[100_000] = 1.0
    assert not watch.holds([weight])


def test_pages_that_were_away_when_the_watch_began_are_not_taken_for_written(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    filed.page_out()
    watch = Watch([weight])
    assert float(weight.sum()) > 0
    assert watch.holds([weight])


def test_a_forked_process_has_its_own(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    filed.page_out()
    array, expected = weight.numpy(), a_weight().numpy()  # torch's threads are not in the child

    def child() -> bool:
        same = bool((array == expected).all())
        array[:] = 0
        return same

    assert in_fork(child)
    assert torch.equal(weight, a_weight())


@dataclass
class Left:
    left: list[torch.Tensor]


def forget(weight: torch.Tensor) -> None:
    filed.forget(Left([weight]))
    filed.page_out()


def test_memory_of_dead_weights_lies_in_no_file(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    span = pages_of(weight)
    forget(weight)
    assert span not in filed._FILED
    assert not any(one.file for one in Mappings([span]).over(span))


def test_the_last_watch_of_dead_weights_has_them_forgotten(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    watches, span = [Watch([weight]), Watch([weight])], pages_of(weight)
    watches.pop()
    filed.page_out()
    assert span in filed._FILED
    assert torch.equal(weight, a_weight())
    del weight
    filed.page_out()
    assert span in filed._FILED
    watches.pop()
    filed.page_out()
    assert span not in filed._FILED


def test_memory_that_is_another_by_now_is_left_alone(tmp_path: Path) -> None:
    weight = moved(tmp_path, a_weight())
    span = pages_of(weight)
    forget(weight)
    filed._FILED.add(span)
    weight.fill_(3)
    forget(weight)
    assert (weight == 3).all()
    assert span not in filed._FILED


def no_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("arrange", "why"),
    [
        (lambda patch: patch.setattr(filed.os, "posix_fallocate", no_disk), "No space left"),
        (lambda patch: patch.setattr(filed, "_file_system", lambda folder: 0x01021994), "lies in memory"),
        (lambda patch: patch.setattr(filed, "_memory_is_glibcs", lambda: False), "another allocator"),
    ],
)
def test_what_cannot_be_moved_stays_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrange: Callable[[pytest.MonkeyPatch], None], why: str
) -> None:
    weight = a_weight()
    arrange(monkeypatch)
    assert why in (filed.move([weight], tmp_path) or "")
    assert not any(one.file for one in Mappings([pages_of(weight)]).over(pages_of(weight)))
    assert torch.equal(weight, a_weight())


def test_a_folder_that_is_a_link_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    weight = a_weight()
    assert "is not a folder" in (filed.move([weight], tmp_path / "link") or "")
    assert torch.equal(weight, a_weight())


def test_shared_memory_stays(tmp_path: Path) -> None:
    weight = a_weight().share_memory_()
    assert filed.move([weight], tmp_path) is None or "share" in (filed.move([weight], tmp_path) or "")
    assert torch.equal(weight, a_weight())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "packed"])
@torch.no_grad()
def test_a_compiled_model(engine: str) -> None:
    able = engine_named(engine, Settings.load()).capability()
    if not able.can_run:
        pytest.skip(str(able.why_not))
    module = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    run = torch.compile(module, backend="djinn", options={"engine": engine, "keep_weights": "packed"})
    given = torch.randn(8, 512)

    def check() -> None:
        for _ in range(3):
            torch.testing.assert_close(run(given), module(given), atol=1e-4, rtol=1e-4)

    check()
    CLOSER.wait()
    check()
    module[0].weight.data.numpy()[3, 5] += 10
    check()
    state = {name: 2 * value for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    CLOSER.wait()
    check()
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    with torch.enable_grad():
        module(given).sum().backward()
        torch.optim.SGD(module.parameters(), lr=0.1).step()
    check()
