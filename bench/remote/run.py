"""What calls over two workers were foretold to take, beside what they take, with links of several speeds before them.

    python bench/remote/run.py --json bench/results/remote_run.json
    python bench/remote/run.py --quick

The workers are on this machine; what comes to one, from the client or from the other, and what goes back from it, is as
late as it would be over a declared link. djinn does not know of that: it measures its workers' links when they start.
The first half of each model's layers is on one worker, the second on the other. A call is foretold as the plan has it
(each device's share, and what passes between them) with the way there and back added to it. The first plan of a model
knows the cost model alone; the second one, made after some calls, what the parts took, which is the same over any link.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, fresh_caches, parse, parser, table
from bench.harness.standing import Standing

_CLIENT = "bench.remote.run_child:Client"
#: Bytes per second and seconds.
LINKS = {"no link": (0, 0.0), "1 GB/s, 0.2 ms": (10**9, 2e-4), "100 MB/s, 1 ms": (10**8, 1e-3),
         "20 MB/s, 5 ms": (2 * 10**7, 5e-3)}  # fmt: skip
MODELS = ("llama-4", "bert", "vit")
#: Of the median error.
BAR = 0.15


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--engine", default="eager", help="of the workers, as the setting of that name")
    arguments = parse(made, argv)
    report = Report("remote/run", arguments)
    links = [name for name in LINKS if not arguments.quick or name in ("no link", "100 MB/s, 1 ms")]
    models = MODELS[:2] if arguments.quick else MODELS
    calls = (10 if arguments.quick else 30) * arguments.runs
    found: dict[str, dict[str, Any]] = {}
    with fresh_caches() as caches:
        for link in links:
            bandwidth, latency = LINKS[link]
            given = {
                "bandwidth_bytes_s": bandwidth, "latency_s": latency, "quick": arguments.quick,
                "engine": arguments.engine,
            }  # fmt: skip
            with Standing(_CLIENT, given, caches) as client:
                report.fact(f"links measured, {link}", client.ask("links"))
                for model in models:
                    found.setdefault(model, {})[link] = client.ask("model", name=model, calls=calls)
                client.ask("close")
    told(report, found)
    return report.finish()


def told(report: Report, found: dict[str, dict[str, Any]]) -> None:
    """The table, every sample, and the bars."""
    rows, errors = [], {"the plan": [], "a first plan": []}  # type: ignore[var-annotated]
    for model, by_link in found.items():
        for link, one in by_link.items():
            report.fact(f"{model}, {link}", {name: value for name, value in one.items() if name != "seconds"})
            took = report.measured(f"{model}, {link}", one["seconds"], "s")
            way = one["passing"] + one["ends"]
            by_plan, by_first = one["computing"] + way, one["computing_at_first"] + way
            rows.append([model, link, *(f"{seconds * 1e3:.1f}" for seconds in (took, by_plan, by_first, way))])
            if link != "no link":
                errors["the plan"].append(abs(by_plan / took - 1))
                errors["a first plan"].append(abs(by_first / took - 1))
    print(
        "\n" + table(["", "link", "took, ms", "by the plan", "by a first plan", "of it on the way"], rows), flush=True
    )
    report.bar("error of the plan, median", statistics.median(errors["the plan"]), BAR)
    for name, values in errors.items():
        report.fact(f"errors of {name}", values)
        report.fact(f"error of {name}, median", statistics.median(values))


if __name__ == "__main__":
    sys.exit(main())
