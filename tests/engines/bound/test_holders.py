"""Counting who holds the memory of weights, and looking again when Python has collected garbage."""

from __future__ import annotations

import gc
import subprocess
import sys

import torch

from djinn_fx.engines.bound import holders
from djinn_fx.engines.bound.holders import SWEEPERS, Holders


def test_weights_are_gone_when_only_engines_hold_their_memory() -> None:
    weight = torch.randn(5, 5)
    first = Holders([weight])
    kept = [weight.detach(), weight.detach().t()]  # the second one too: it came while the engine opened
    first.settle(kept[:1])
    second = Holders([weight])
    second.settle([weight.detach()])
    assert not first.gone
    view = weight[1]
    del weight
    assert not first.gone
    del view
    assert first.gone
    assert second.gone
    del second
    assert first.gone


def test_nothing_is_left_in_the_count() -> None:
    before = dict(holders._OWN)
    weights = [torch.randn(3), torch.randn(4)]
    weights.append(weights[0][1:])
    found = Holders(weights)
    found.settle([one.detach() for one in weights])
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
        "one = Sweeper(); SWEEPERS.add(one); watch = Watch([torch.randn(300, 300)]); watch.settle()\n"
        "class Loop: pass\n"
        "loop = Loop(); loop.loop = loop; loop.watch = watch\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
