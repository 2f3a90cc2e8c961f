"""What the plan's own cut of a model over two devices of one core loses against the best of all cuts between layers.

For each model all cuts in two between its layers are made by pins, and the plan's own without any; all of them are
compiled in one process and then measured in turns, each as a pipeline of micro-batches. The best cut is chosen by half
of the rounds and compared with the plan's by the other half, so that the luckiest of many is not taken for the best.
Regret is how much longer the plan's own takes; below zero where it cuts better than between layers. Where both run the
same regions on the same devices they are one, and the regret is zero.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import djinn_fx
from bench.harness.harness import Report, fresh_caches, parse, parser, table
from bench.harness.models import build
from bench.harness.standing import Standing
from bench.placement.run import DEVICES, Model

MODELS = ("llama-4", "llama-6", "llama-8", "bert", "vit", "resnet")
#: Micro-batches of a round; calls before the first.
BATCHES, WARM = 16, 12
#: Mean regret.
BAR = 0.02
OWN = "the plan's"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=6)
    made.add_argument("--models", nargs="+", default=list(MODELS), help="names as of bench/harness/models.py")
    made.add_argument("--engine", default="openvino", help="as the setting of that name")
    arguments = parse(made, argv)
    report = Report("placement-regret", arguments)
    models = ["llama-4", "bert"] if arguments.quick and arguments.models == list(MODELS) else arguments.models
    regrets = []
    for name in models:
        regrets.append(_model(report, name, arguments))
    mean = statistics.fmean(max(0.0, one) for one in regrets)
    print(f"\nregret: mean {mean:.1%}, largest {max(regrets):.1%}")
    report.fact("regrets", dict(zip(models, regrets, strict=True)))
    report.bar("mean regret", mean, BAR)
    return report.finish()


class Cuts:
    """A model cut in every way between its layers, and as the plan would.

    Args:
        name: of the model.
        quick: its small form.
        engine: the setting.
    """

    def __init__(self, name: str, quick: bool, engine: str) -> None:
        torch._dynamo.config.recompile_limit = 256
        path, count = layers_of(build(name, quick)[0])
        self._models, self._plans = dict[str, Model](), dict[str, frozenset[tuple[str, str]]]()
        for layer in range(count):
            pin = {f"{path}.0-{layer - 1}": "cpu:0", f"{path}.{layer}-{count - 1}": "cpu:1"} if layer else None
            cut = f"before layer {layer}" if layer else OWN
            self._models[cut] = Model(name, quick, engine, list(DEVICES), pin=pin, calls=WARM)
            plan = djinn_fx.compilations()[-1].plan
            self._plans[cut] = frozenset((name, region.device) for region in plan.regions for name in region.nodes)

    def cuts(self) -> dict[str, str]:
        """Of each cut another one that is the same, or itself."""
        own = self._plans[OWN]
        return {cut: OWN if plan == own else cut for cut, plan in self._plans.items()}

    def batches(self, cut: str, count: int) -> float:
        """Seconds that so many batches take, cut so."""
        return self._models[cut].batches(count)


def layers_of(model: torch.nn.Module) -> tuple[str, int]:
    """The path of a model's layers, and how many there are: the longest of its lists of modules."""
    lists = {path: len(one) for path, one in model.named_modules() if isinstance(one, torch.nn.ModuleList)}
    path = max(lists, key=lambda one: lists[one])
    return path, lists[path]


def _model(report: Report, name: str, arguments: argparse.Namespace) -> float:
    given = {"name": name, "quick": arguments.quick, "engine": arguments.engine}
    rounds = 2 if arguments.quick else max(2, arguments.runs)
    with fresh_caches() as caches, Standing("bench.placement.regret:Cuts", given, caches) as side:
        same = side.ask("cuts")
        found: dict[str, list[float]] = {cut: [] for cut, other in same.items() if cut == other}
        for _ in range(rounds):
            for cut, seconds in found.items():
                seconds.append(side.ask("batches", cut=cut, count=BATCHES))
    for cut, seconds in found.items():
        report.measured(f"{name}, {cut}", seconds, "s")
    by_choice = {cut: statistics.median(seconds[::2]) for cut, seconds in found.items()}
    by_proof = {cut: statistics.median(seconds[1::2]) for cut, seconds in found.items()}
    best = min(by_choice, key=lambda cut: by_choice[cut])
    regret = by_proof[OWN] / by_proof[best] - 1
    twin = [cut for cut, other in same.items() if other == OWN and cut != OWN]
    rows = [[cut, f"{statistics.median(seconds) * 1e3:.1f}"] for cut, seconds in found.items()]
    print("\n" + table([f"{name}, {BATCHES} batches", "ms"], rows))
    print(f"best: {best}; the plan's own{f' is {twin[0]}' if twin else ''}; regret {regret:.1%}")
    return regret


if __name__ == "__main__":
    raise SystemExit(main())
