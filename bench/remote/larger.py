"""A model larger than a worker: over two workers, beside one process with one worker's memory that offloads weights.

    python bench/remote/larger.py --json bench/results/larger.json --work DIR     # 6.2 GB over two workers of 4 GB
    python bench/remote/larger.py --quick                                         # 1.4 GB over two of 1.3 GB

A Llama of random float32 weights is written to DIR and deleted at the end. Each worker's process is put into a control
group with its bound before it is sent anything, where this user may make one; else its anonymous memory is looked at.
The other side is ``djinn_fx.load_offloaded`` with that budget, in such a group too, and with all processors, of which
a worker has half. The client maps the weights, as whoever asks of workers has them; its tokens by eager are what is
right.
"""

from __future__ import annotations

import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.children import Caches, call_child, fresh_caches
from bench.harness.harness import Report, parse, parser, ratio, rotated, successive, table
from bench.harness.standing import Standing
from bench.memory.budget import forget_all
from bench.memory.limits import Limit, Watched

BUDGET_SIDE, CLIENT = "bench.memory.budget_child", "bench.remote.larger_child:Client"
#: Bytes that a worker may hold, by whether the model is the small one.
BOUND = {False: 4_000_000_000, True: 1_300_000_000}
#: Tokens of the prompt, and tokens that are decoded after the first, by the same.
LENGTH, MORE = 64, {False: 8, True: 6}
WORKERS, OFFLOADED = "two workers", "one worker's budget"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    made = parser(__doc__ or "", runs=3)
    made.add_argument("--work", type=Path, metavar="DIR", help="where the weights are written (default: temporary)")
    made.add_argument("--engine", default="eager", help="of the workers, as the setting of that name")
    arguments = parse(made, argv)
    report = Report("remote/larger", arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever ends it finds no group or folder left
    with tempfile.TemporaryDirectory(prefix="djinn-larger-", dir=arguments.work) as folder, fresh_caches() as caches:
        written = call_child(f"{BUDGET_SIDE}:write", {"folder": folder, "quick": arguments.quick}, caches)
        report.fact("weights_bytes", written["bytes"])
        apart = Path(folder, "offloaded")  # else it would read what the client has in the page cache
        apart.mkdir()
        for file in Path(folder).iterdir():
            if file.is_file():
                shutil.copy(file, apart / file.name)
                forget_all(file, apart / file.name)
        with ExitStack() as stack:
            measure(report, folder, caches, arguments, written["bytes"], stack)
    return report.finish()


def measure(report: Report, folder: str, caches: Caches, arguments: Any, weights: int, stack: ExitStack) -> None:
    """Both sides in turn."""
    quick, bound, more = arguments.quick, BOUND[arguments.quick], MORE[arguments.quick]
    given = {"folder": folder, "quick": quick, "budget": bound}
    # Made first, so removed last: a group goes when no process is in it.
    groups = {name: stack.enter_context(Limit(name, bound)) for name in ("worker-0", "worker-1")}
    limit = stack.enter_context(Limit("offloaded", bound))
    client = stack.enter_context(Standing(CLIENT, {**given, "engine": arguments.engine}, caches, name="client"))
    right = client.ask("eager", length=LENGTH, more=more)
    watched = {}
    for name, pid in zip(groups, client.ask("pids"), strict=True):
        groups[name].take(pid)
        watched[name] = Watched(pid, anonymous=True)
    print(f"{weights / 1e9:.2f} GB, workers held to {bound / 1e9:.2f} GB by {groups[name].held_by or 'nothing'}")
    first = client.ask("answer", length=LENGTH, more=more)
    print(f"{WORKERS}: first answer, compiled and sent, {sum(first['seconds']):.1f} s", flush=True)
    held = client.ask("held")
    own = replace(caches, home=caches.home / "offloaded")
    offloaded = stack.enter_context(
        Standing(
            f"{BUDGET_SIDE}:Side",
            {**given, "folder": f"{folder}/offloaded", "side": "djinn"},
            own,
            prefix=limit.prefix,
            name="offloaded",
        )
    )
    offloaded.ask("answer", length=8, more=1)
    sides = {WORKERS: client, OFFLOADED: offloaded}
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(arguments.runs):
        for side in rotated(list(sides), turn):
            found[side].append(sides[side].ask("answer", length=LENGTH, more=more))
    most = {name: max(groups[name].figures().get("most", 0), one.stop()) for name, one in watched.items()}
    held["at the end"] = client.ask("held")["workers"]
    client.ask("close")
    told(report, found, held, most, right)
    report.bar(
        "tokens equal eager's", float(all(one["tokens"] == right["tokens"] for one in found[WORKERS])), 1.0, "=="
    )
    report.bar("weights / bound of a worker", weights / bound, 1.0, ">=")
    report.bar("workers with weights", sum(one["weights"] > 0 for one in held["workers"].values()), 2.0, "==")
    for name, value in most.items():
        report.bar(f"{name}, most memory / bound", value / bound, 1.0)
    decode = {side: [decoded(one) for one in answers] for side, answers in found.items()}
    faster = ratio(decode[OFFLOADED], decode[WORKERS])
    report.ratio("decode", faster, successive(decode[WORKERS]))
    report.bar("decode, one worker's budget / two workers", faster.median, 1.0, ">=")


def decoded(answer: dict[str, Any]) -> float:
    """Seconds of one token after the first."""
    return statistics.fmean(answer["seconds"][1:])


def told(
    report: Report, found: dict[str, list[dict[str, Any]]], held: dict[str, Any], most: dict[str, int], right: Any
) -> None:
    """The table, and every sample into the report."""
    rows = []
    for side, answers in found.items():
        prompt = report.measured(f"prompt, {side}", [one["seconds"][0] for one in answers], "s")
        decode = report.measured(f"decode, {side}", [decoded(one) for one in answers], "s")
        rows.append([side, f"{prompt:.2f}", f"{decode:.3f}"])
    rows.append(["eager, all in the client", f"{right['seconds'][0]:.2f}", f"{decoded(right):.3f}"])
    report.measured("decode, eager in the client", right["seconds"][1:], "s")
    print("\n" + table(["", f"prompt of {LENGTH}, s", "a token, s"], rows), flush=True)
    report.fact("workers", held)
    report.fact("most_bytes", most)


if __name__ == "__main__":
    sys.exit(main())
