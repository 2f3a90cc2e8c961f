"""What a watch sees of writes into weights, where the kernel tells of them and where it does not."""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing.shared_memory
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from djinn_fx.engines.bound import rotation, watch, write_protection
from djinn_fx.engines.bound.userfaultfd import PAGE
from djinn_fx.engines.bound.watch import MIN_PAGES, Watch, addresses, picker
from tests.engines.bound.writing import TRACED, WAYS, WIDE, Way

ROWS, WIDTH = 300, 200


def calls_until_seen(watch: Watch, weights: list[Tensor], limit: int = rotation.MAX_CALLS + 1) -> int:
    """How many calls would have been answered with old weights."""
    for number in range(limit):
        if not watch.holds(weights):
            return number
    return limit


def heap_of_weights() -> list[Tensor]:
    """Weights of some layers as they lie in memory: matrices and vectors, one after the other."""
    made = [[nn.Parameter(torch.randn(ROWS, WIDTH)), nn.Parameter(torch.randn(WIDTH))] for _ in range(3)]
    return [one for layer in made for one in layer]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_of_writing_is_seen(way: Way, told: bool) -> None:
    weights = heap_of_weights()
    for seed in range(2):
        watch = Watch(weights)
        assert watch.holds(weights)
        way(weights[2], 91 * seed + 7)
        late = calls_until_seen(watch, weights)
        assert late <= rotation.MAX_CALLS
        if told or way in TRACED or way in WIDE:
            assert late == 0


@pytest.mark.parametrize("place", [0, 1, 511, 1023])
def test_vectors_are_compared_in_full_on_every_kernel(place: int, told: bool) -> None:
    bias = nn.Parameter(torch.zeros(1024))
    watch = Watch([bias])
    bias.data[place] += 1
    assert not watch.holds([bias])


LAYOUTS = [
    torch.randn(40, 50).t(),
    torch.randn(4, 5, 6, 7).to(memory_format=torch.channels_last),
    torch.randn(3, 1).expand(3, 5),
    torch.randn(9, 9)[::2, 1::3],
    torch.tensor(3.0),
    torch.arange(5),
    torch.randn(33).bfloat16(),
    torch.randn(3) > 0,
    torch.randn(0, 4),
    torch.randn(10)[3:7],
    torch.randn(500, 400).t(),
    torch.randn(500, 900)[:, 100:300],
    torch.randn(200, 1).expand(200, 30000),
    torch.randn(300, 300).half(),
    torch.randn(64, 32, 3, 3).to(memory_format=torch.channels_last),
]


@pytest.mark.parametrize("weight", LAYOUTS, ids=lambda one: f"{tuple(one.shape)} {one.dtype}")
def test_any_layout_is_watched(weight: Tensor, told: bool) -> None:
    watch = Watch([weight])
    assert watch.holds([weight])
    if weight.numel():
        last = weight[tuple(size - 1 for size in weight.shape)]
        last.data.copy_(last.logical_not() if weight.dtype is torch.bool else last + 1)
        assert calls_until_seen(watch, [weight]) == 0


def test_a_weight_without_memory_is_no_trouble(told: bool) -> None:
    nothing = torch._efficientzerotensor((300, 300))
    assert Watch([nothing]).holds([nothing])


@pytest.mark.parametrize("size", [MIN_PAGES * PAGE // 4, 70_000, 700_000])
@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_every_element_of_a_large_weight_is_watched(size: int, offset: int) -> None:
    if write_protection.table() is None:
        pytest.skip("this kernel does not tell of writes")
    array = np.zeros(size + 2000, np.float32)
    weight = torch.from_numpy(array)[offset : offset + size]
    for place in {0, 1, 1023, 1024, 1025, size // 2, size - 1025, size - 1024, size - 2, size - 1}:
        watch = Watch([weight])
        array[offset + place] += 1
        assert not watch.holds([weight]), place
        watch = Watch([weight])
    array[offset - 1 if offset else offset + size] += 1  # its neighbour's
    array[offset + size] += 1
    assert watch.holds([weight])


def test_neighbours_on_a_page_are_not_blamed_for_each_other(told: bool) -> None:
    whole = torch.zeros(3 * 40_001)
    parts = [whole[40_001 * k : 40_001 * (k + 1)] for k in range(3)]
    watches = [Watch([one]) for one in parts]
    parts[1].numpy()[[0, -1]] = 1
    holding = [watch.holds([one]) for watch, one in zip(watches, parts, strict=True)]
    assert holding == [True, False, True]


def test_a_weight_that_is_given_other_memory_meanwhile_is_not_the_watched_one(
    told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``weight.data = ...`` does in the user's thread while another one opens a session: it was served for good."""
    weight = nn.Parameter(torch.randn(64, 64))
    old = weight.detach().clone()

    class Meanwhile(watch.Holders):
        def __init__(self, weights: Sequence[Tensor]) -> None:
            super().__init__(weights)
            weight.data = torch.randn(64, 64)

    monkeypatch.setattr(watch, "Holders", Meanwhile)
    watched = Watch([weight])
    assert torch.equal(watched.kept[0], old)
    assert watched.addresses == addresses(watched.kept)
    assert not watched.holds([weight])


def test_two_who_watch_the_same_weights_both_see_a_write(told: bool) -> None:
    weights = heap_of_weights()
    first, second = Watch(weights), Watch(weights[2:3])
    assert first.holds(weights)
    weights[2].data[0] += 1
    assert not first.holds(weights)
    assert not second.holds(weights[2:3])


def test_reading_is_no_write(told: bool) -> None:
    weights = heap_of_weights()
    watch = Watch(weights)
    for _ in range(20):
        assert torch.isfinite(weights[0] @ weights[1]).all()
        weights[0].clone().add_(1)
        assert watch.holds(weights)


def test_the_first_reading_of_memory_is_no_write(tmp_path: Path, told: bool) -> None:
    size = 4 << 20
    np.ones(size, np.float32).tofile(tmp_path / "ones")
    for weight in (torch.zeros(size), torch.from_file(str(tmp_path / "ones"), shared=False, size=size)):
        watch = Watch([weight])
        assert weight.sum() in (0, size)
        assert watch.holds([weight])


def test_memory_taken_away_whole_counts_as_written() -> None:
    import ctypes

    if write_protection.table() is None:
        pytest.skip("this kernel does not tell of writes")
    weight = torch.ones(8 << 20)
    watch = Watch([weight])
    start = (weight.data_ptr() + (4 << 20) - 1) // (2 << 20) * (2 << 20)
    for begin, size in ((start, 16 << 20), (start, 2 << 20), (start + PAGE, PAGE)):
        watch = Watch([weight])
        assert ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED) == 0
        assert not watch.holds([weight])
        weight.fill_(1)


# What may change without a trace


def test_weights_of_inference_mode(told: bool) -> None:
    with torch.inference_mode():
        large, small = torch.randn(ROWS, WIDTH), torch.randn(64)
    assert (Watch([large, small]).untraceable is None) == told
    watch = Watch([small])
    assert watch.untraceable is None
    with torch.inference_mode():
        small[3] += 1
    assert not watch.holds([small])
    watch = Watch([large])
    with torch.inference_mode():
        large[100] += 1
    assert calls_until_seen(watch, [large]) <= (0 if told else rotation.MAX_CALLS)


def shared_by_torch(tmp_path: Path) -> Any:
    return torch.randn(ROWS, WIDTH).share_memory_()


def shared_by_name(tmp_path: Path) -> Any:
    block = multiprocessing.shared_memory.SharedMemory(create=True, size=4 * ROWS * WIDTH)
    weight = torch.from_numpy(np.ndarray((ROWS, WIDTH), np.float32, buffer=block.buf))
    block.unlink()
    weight.keep = block
    return weight


def file_of_all(tmp_path: Path) -> Any:
    return torch.from_file(str(tmp_path / "all"), shared=True, size=ROWS * WIDTH)


@pytest.mark.parametrize("make", [shared_by_torch, shared_by_name, file_of_all])
def test_memory_shared_with_other_processes_is_untraceable_on_every_kernel(
    make: Callable[[Path], Any], tmp_path: Path, told: bool
) -> None:
    weight = make(tmp_path)
    watch = Watch([weight])
    assert watch.untraceable is not None
    weight[0] += 1
    assert not watch.holds([weight])
    if hasattr(weight, "keep"):
        keep = weight.keep
        del weight, watch
        gc.collect()
        with contextlib.suppress(BufferError):
            keep.close()


def loaded_by_torch(path: Path) -> Tensor:
    torch.save({"w": torch.randn(ROWS, WIDTH)}, path)
    loaded: Tensor = torch.load(path, mmap=True)["w"]
    return loaded


def private_file(path: Path) -> Tensor:
    np.random.rand(ROWS, WIDTH).astype("f4").tofile(path)
    return torch.from_file(str(path), shared=False, size=ROWS * WIDTH).view(ROWS, WIDTH)


def safetensors_file(path: Path) -> Tensor:
    save_file = pytest.importorskip("safetensors.torch").save_file
    from safetensors import safe_open

    save_file({"w": torch.randn(ROWS, WIDTH)}, path)
    with safe_open(path, "pt") as file:
        found: Tensor = file.get_tensor("w")
    return found


@pytest.mark.parametrize("make", [loaded_by_torch, private_file, safetensors_file])
def test_private_mappings_of_files(make: Callable[[Path], Tensor], tmp_path: Path, told: bool) -> None:
    path = tmp_path / "weights"
    weight = make(path)
    watch = Watch([weight])
    assert watch.untraceable is None
    assert watch.holds([weight])
    weight.numpy()[100] += 3
    assert calls_until_seen(watch, [weight]) <= (0 if told else rotation.MAX_CALLS)
    watch = Watch([weight])
    assert watch.holds([weight])
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    assert make is safetensors_file or not watch.holds([weight])
    watch = Watch([weight])
    path.unlink()
    assert make is safetensors_file or not watch.holds([weight])


# What it keeps


def test_no_weak_reference_and_no_other_hold_is_kept_on_a_weight(told: bool) -> None:
    weights = heap_of_weights()
    watch = Watch(weights)
    for weight in weights:
        torch.utils.swap_tensors(weight, nn.Parameter(torch.randn_like(weight)))
    assert not watch.holds(weights)
    assert watch.orphaned


def test_nothing_stays_behind_of_a_watch_that_is_gone(told: bool) -> None:
    gc.collect()
    table = write_protection.table()
    before = table.watched if table is not None else 0
    for _ in range(5):
        weights = heap_of_weights()
        watch = Watch(weights)
        assert not watch.orphaned
        del weights
        assert watch.orphaned
        del watch
    assert (table.watched if table is not None else 0) == before


def test_a_picker_takes_one_or_many() -> None:
    assert list(picker([2])("abc")) == ["c"]
    assert list(picker([2, 0])("abc")) == ["c", "a"]


def test_addresses_tell_sets_apart() -> None:
    one, other = torch.ones(3), torch.ones(3)
    assert addresses([one, other]) != addresses([other, one])
    assert addresses([one]) == addresses([one.detach()])
