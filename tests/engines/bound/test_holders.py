"""Counting who holds the memory of weights, and looking again when Python has collected garbage."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch

from djinn_fx.engines.bound import holders
from djinn_fx.engines.bound.holders import SWEEPERS, Holders


def test_weights_are_gone_when_only_engines_hold_their_memory() -> None:
    weight = torch.randn(5, 5)
    first, second = Holders([weight]), Holders([weight])
    made = [first.lent[0].t(), first.lent[0].detach(), second.lent[0].numpy()]  # what engines make of it
    assert not first.gone
    view = weight[1]
    del weight
    assert not first.gone
    del view
    assert first.gone
    assert second.gone
    del second
    assert not first.gone, "an engine still reads it"
    del made
    assert first.gone


def test_who_reads_a_weight_while_an_engine_opens_is_not_taken_for_the_engine() -> None:
    """As own ops do, in another thread: the copy of a living model was let go of, and packed anew."""
    weight = torch.randn(5, 5)
    view = weight.t()
    found = Holders([weight])
    other = weight.t()
    del view, other
    assert not found.gone
    del weight
    assert found.gone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.complex64])
@pytest.mark.parametrize("shape", [(), (3, 4), (0, 4), (2, 3, 4)])
def test_what_is_lent_is_the_weight_and_keeps_its_memory(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    base = torch.randint(0, 2, (*shape, 2)).to(dtype)
    for weight in (base, base[..., 1], base.mT if base.dim() > 1 else base):
        (lent,) = Holders([weight]).lent
        assert (lent.dtype, lent.shape, lent.stride()) == (weight.dtype, weight.shape, weight.stride())
        assert lent.data_ptr() == weight.data_ptr()
        assert lent.numel() == 0 or lent.untyped_storage()._cdata != weight.untyped_storage()._cdata
        want = weight.to(torch.complex64).clone()
        del weight
        assert torch.equal(lent.to(torch.complex64), want)
    del base
    gc.collect()
    assert torch.equal(lent.to(torch.complex64), want)


def test_nothing_is_left_in_the_count() -> None:
    before = dict(holders._OWN)
    weights = [torch.randn(3), torch.randn(4)]
    weights.append(weights[0][1:])
    found = Holders(weights)
    assert not found.gone
    assert dict(holders._OWN) != before
    del found
    assert dict(holders._OWN) == before


def test_sweepers_look_after_a_collection_but_not_after_each_of_the_youngest() -> None:
    class Sweeper:
        looked = 0

        def sweep(self) -> int:
            self.looked += 1
            return 0

    one = Sweeper()
    SWEEPERS.add(one)
    gc.collect(0)
    assert one.looked == 0
    gc.collect()
    assert one.looked == 1


def test_the_end_of_the_interpreter_is_quiet() -> None:
    program = (
        "import gc, torch\n"
        "from djinn_fx.engines.bound.holders import SWEEPERS, Holders\n"
        "from djinn_fx.engines.bound.watch import Watch\n"
        "class Sweeper:\n    def sweep(self): return Holders([])\n"
        "one = Sweeper(); SWEEPERS.add(one); watch = Watch([torch.randn(300, 300)])\n"
        "class Loop: pass\n"
        "loop = Loop(); loop.loop = loop; loop.watch = watch\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
