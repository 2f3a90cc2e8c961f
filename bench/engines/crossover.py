"""Where decode turns into prefill: the rows at which linear layers leave the memory's bound for the processor's.

    djinn calibrate                                                       # first: the model's profile
    python bench/engines/crossover.py --json bench/results/crossover.json         # half a minute
    python bench/engines/crossover.py --quick

With one row a layer takes as long as its weights take to arrive; with many, as long as its operations. The crossover is
the number of rows at which the time has doubled, interpolated over logarithms; the same on predicted times, which are
made before anything is timed. No layer has a size that calibration measures; the weights together exceed the
caches. Rows are timed in turn, round after round.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F

from bench.harness.harness import Report, no_gc, parse, parser, table
from djinn_fx.calibrate.program import CaseProgram, Traced, copies_for, filled, traced, weight
from djinn_fx.calibrate.worker import callable_of
from djinn_fx.costmodels.laws.calibrated import CalibratedModel
from djinn_fx.costmodels.profile import conditions, profile_folder, read_profile
from djinn_fx.hardware.catalogue import default_device

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
#: (inputs, outputs) of a layer.
SIZES = ((640, 640), (896, 2304), (1536, 1536))
QUICK = SIZES[:1]
COLD_BYTES = 96_000_000
#: A time that has grown so much is the processor's.
GROWN = 2.0
#: The bench's own bar, as a factor between predicted and measured rows: half of the step between two numbers of rows.
FACTOR = math.sqrt(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Foretell, measure, compare. Returns the exit code."""
    made = parser(__doc__ or "", runs=15)
    made.add_argument("--profile", type=Path, metavar="DIR", help="folder of the profile (default: djinn calibrate's)")
    arguments = parse(made, argv)
    report = Report("crossover", arguments)
    found = read_profile(arguments.profile or profile_folder(), conditions())
    if found.profile is None:
        print(f"no profile to foretell by: {found.problem or 'run djinn calibrate first'}")
        return 2
    model = CalibratedModel(found.profile.fitted, name="profile", threads=torch.get_num_threads())
    report.fact("profile", {"made": found.profile.made, "samples": found.profile.samples})
    rows, factors = [], []
    for inputs, outputs in QUICK if arguments.quick else SIZES:
        cases = {count: traced(layers(count, inputs, outputs)) for count in ROWS}
        predicted = {m: model.region(case.work, default_device("cpu"), "eager").time_s for m, case in cases.items()}
        measured = timed(cases, 5 if arguments.quick else arguments.runs)
        foretold, seen = crossover(predicted), crossover(measured)
        factors.append(max(foretold / seen, seen / foretold))
        rows.append((f"{inputs} x {outputs}", f"{seen:.1f}", f"{foretold:.1f}", f"{factors[-1]:.2f}"))
        report.fact(f"{inputs}x{outputs}", {"predicted_s": predicted, "measured_s": measured})
    print(table(("layer", "measured, rows", "predicted, rows", "factor"), rows))
    report.bar("largest factor between predicted and measured crossover", max(factors), FACTOR)
    return report.finish()


def layers(count: int, inputs: int, outputs: int) -> CaseProgram:
    """Layers side by side that read the same rows."""
    copies = copies_for(COLD_BYTES, 4 * inputs * outputs)

    def function(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *weights, x = arguments
        return tuple(F.linear(x, one) for one in weights)

    weights = tuple(weight(outputs, inputs) for _ in range(copies))
    return CaseProgram(function=function, weights=weights, inputs=(filled(count, inputs),))


def timed(cases: Mapping[int, Traced], rounds: int) -> dict[int, float]:
    """Median seconds by rows."""
    calls = {count: call_of(case) for count, case in cases.items()}
    seconds: dict[int, list[float]] = {count: [] for count in cases}
    with torch.no_grad(), no_gc():
        for call in calls.values():
            call()
        for _ in range(rounds):
            for count, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[count].append(time.perf_counter() - start)
    return {count: sorted(found)[len(found) // 2] for count, found in seconds.items()}


def call_of(case: Traced) -> Callable[[], Any]:
    """A call of a traced case by the eager engine."""
    run = callable_of("eager", case)
    return lambda: run(list(case.arguments))


def crossover(seconds: Mapping[int, float]) -> float:
    """Rows at which the time is :data:`GROWN` times that of one row; the most rows if it never is."""
    bound = GROWN * seconds[1]
    before = 1
    for count in sorted(seconds):
        if seconds[count] >= bound:
            share = math.log(bound / seconds[before]) / math.log(seconds[count] / seconds[before])
            return float(before * (count / before) ** share)
        before = count
    return float(before)


if __name__ == "__main__":
    sys.exit(main())
