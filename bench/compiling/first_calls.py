"""What a user notices of compiling: the time of each of the first 200 calls, in a first and in a second process.

Default options. Beside djinn stand Inductor, Dynamo alone (``backend="eager"``) and the model itself, each in a process
of its own, in turn. A second process finds what the first has left in the caches. See bench/README.md.

    python bench/compiling/first_calls.py --json bench/results/first_calls.json
    python bench/compiling/first_calls.py --quick
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Journal, Report, call_child, fresh_caches, parse, parser, rotated, table

CHILD = "bench.compiling.first_calls_child:calls"
SIDES = ("djinn", "inductor", "eager", "none")
#: A call is slow that takes this many times as long as a settled one.
SLOW = 1.5
#: The last calls, whose median is a settled call.
SETTLED = 50

#: Of all calls after the first, the share that may be slow, beyond that of the model itself.
SLOW_SHARE = 0.01
LARGEST = 5.0
SERVES_BY_CALL = 40
WARM_SHARE, WARM_EAGER_CALLS = 0.5, 1.3
COLD_RATIO = 0.35
MEMORY = 1.1

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "")
    made.add_argument("--models", default="llama-24", metavar="A,B", help="llama-N for any N, bert, vit, resnet")
    made.add_argument("--calls", type=int, default=200, help="calls in each process (default 200)")
    arguments = parse(made, argv)
    models = ["llama-4"] if arguments.quick else list(filter(None, arguments.models.split(",")))
    report, journal = Report("first_calls", arguments), Journal(arguments)
    rounds: dict[str, list[dict[str, Found]]] = {}
    for model in models:
        for turn in range(arguments.runs):
            step = functools.partial(one_round, model, turn, arguments.quick, arguments.calls)
            rounds.setdefault(model, []).append(journal.once(f"{model} {turn}", step))
    for model, found in rounds.items():
        summarise(model, found, report)
    code = report.finish()
    journal.done()
    return code


def one_round(model: str, turn: int, quick: bool, calls: int) -> dict[str, Found]:
    """A first and a second process of every side; the model itself once."""
    found: dict[str, Found] = {}
    with fresh_caches() as djinn, fresh_caches() as inductor, fresh_caches() as neither:
        caches = {"djinn": djinn, "inductor": inductor, "eager": neither, "none": neither}
        for process in ("cold", "warm"):
            for side in rotated(SIDES[: 2 if process == "cold" else 4], turn):
                asked = {"side": side, "model": model, "quick": quick, "count": calls}
                one = found[f"{process} {side}"] = call_child(CHILD, asked, caches[side])
                print(f"  {model} {process} {side}: {one['seconds'][0]:.2f} s, then {_settled(one):.4f} s", flush=True)
    return found


def _settled(one: Mapping[str, Any]) -> float:
    return statistics.median(one["seconds"][-SETTLED:])


def slow_share(one: Mapping[str, Any]) -> float:
    """Share of the calls after the first that take more than :data:`SLOW` times a settled one."""
    later = one["seconds"][1:]
    return sum(seconds > SLOW * _settled(one) for seconds in later) / len(later)


def summarise(model: str, rounds: Sequence[Mapping[str, Found]], report: Report) -> None:
    """Print one model's table, and hold it against the bars."""
    rows = []
    for name in rounds[0]:
        ones = [each[name] for each in rounds]
        for each in ones:
            report.measured(f"{model} {name} call", each["seconds"], "s")
        worst = max(range(1, len(ones[0]["seconds"])), key=lambda call: ones[0]["seconds"][call])
        decided = [each["decided"] for each in ones if each["decided"] is not None]
        rows.append([
            name,
            f"{statistics.median(each['seconds'][0] for each in ones):.2f}",
            f"{1e3 * statistics.median(map(_settled, ones)):.2f}",
            f"{100 * statistics.median(map(slow_share, ones)):.1f} %",
            f"{statistics.median(max(each['seconds'][1:]) / _settled(each) for each in ones):.1f}",
            worst + 1,
            max(decided) if decided else "",
            f"{statistics.median(each['resident_bytes'] for each in ones) / ones[0]['weight_bytes']:.2f}",
            sum(each["wrong"] for each in ones),
        ])  # fmt: skip
    headers = ["", "first s", "settled ms", f"> {SLOW}x", "largest/settled", "at call", "decided", "memory", "wrong"]
    print(f"\n{model}: calls 1 to {len(rounds[0]['cold djinn']['seconds'])}; memory in weights\n{table(headers, rows)}")
    report.fact(model, [{name: {k: v for k, v in one.items() if k != "seconds"} for name, one in each.items()}
                        for each in rounds])  # fmt: skip
    _bars(model, rounds, report)


def _bars(model: str, rounds: Sequence[Mapping[str, Found]], report: Report) -> None:
    def middle(value: Any) -> float:
        return statistics.median(value(each) for each in rounds)

    def first(name: str) -> Any:
        return lambda each: each[name]["seconds"][0]

    report.bar(f"{model}: answers that are not eager's", sum(o["wrong"] for e in rounds for o in e.values()), 0, "==")
    report.bar(
        f"{model}: cold first call, of Inductor's",
        middle(lambda each: first("cold djinn")(each) / first("cold inductor")(each)),
        COLD_RATIO,
    )
    report.bar(
        f"{model}: warm first call over Dynamo alone, of what is allowed",
        middle(
            lambda each: (
                (first("warm djinn")(each) - first("warm eager")(each))
                / (
                    WARM_SHARE * (first("warm inductor")(each) - first("warm eager")(each))
                    + WARM_EAGER_CALLS * each["warm djinn"]["eager_s"][0]
                )
            )
        ),
        1.0,
    )
    for process in ("cold", "warm"):
        name = f"{process} djinn"
        report.bar(
            f"{model}: {process}, slow calls beyond the model's own",
            middle(lambda each, name=name: max(0.0, slow_share(each[name]) - slow_share(each["warm none"]))),
            SLOW_SHARE,
        )
        report.bar(
            f"{model}: {process}, largest of the later calls, settled",
            middle(lambda each, name=name: max(each[name]["seconds"][1:]) / _settled(each[name])),
            LARGEST,
        )
        report.bar(
            f"{model}: {process}, the winner serves by call",
            max(each[name]["decided"] or len(each[name]["seconds"]) for each in rounds),
            SERVES_BY_CALL,
        )
        report.bar(
            f"{model}: {process}, memory over Inductor's, weights",
            middle(
                lambda each, name=name, process=process: (
                    (each[name]["resident_bytes"] - each[f"{process} inductor"]["resident_bytes"])
                    / each[name]["weight_bytes"]
                )
            ),
            MEMORY,
        )


if __name__ == "__main__":
    sys.exit(main())
