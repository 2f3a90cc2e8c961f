"""Plans of which model lives on which device: against bounds, against other rules, against a proof, and on another day.

* Cells: workflows of data/deploy/workflows at several numbers of devices, with one model a device and with sharing, all
  requests at their times (and all at once). Bounds are those that no plan can be below.
* Rules: the published one in both readings, simulation-guided greedy, dynamic switching, batches by model.
* Exact: CP-SAT on instances made from seeds, one copy of each model; the default beside it.
* Large: 500 models, 256 servers, 10,000 requests, in a process of its own whose memory is measured.
* Another day: the plan of one day on the requests of the next, and on services that take half as long again.
* Simulator: node executions a second, and mean waits against closed forms.

    python bench/deploy/plan.py --json bench/results/deploy_plan.json
    python bench/deploy/plan.py --quick
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.deploy import cells, days, proofs, queues
from bench.deploy.workloads import read
from bench.harness.harness import Journal, Report, parse, parser

PARTS: dict[str, Any] = {
    "exclusive": cells.exclusive,
    "shared": cells.shared,
    "rules": cells.rules,
    "exact": proofs.exact,
    "large": proofs.large,
    "another-day": days.another_day,
    "more-devices": days.more_devices,
    "simulator": queues.simulator,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--large-child", action="store_true", help=argparse.SUPPRESS)
    arguments = parse(made, argv)
    if arguments.large_child:
        return proofs.large_child()
    report = Report("deploy_plan", arguments)
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = arguments.data or Path(os.environ.get("DJINN_BENCH_DATA", default)) / "deploy"
    data = read(folder / "workflows")
    for part in arguments.only:
        more = {"journal": Journal(arguments)} if part == "exact" else {}
        PARTS[part](report, data, folder, arguments.quick, **more)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
