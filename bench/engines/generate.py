"""Text generation: ``generate()`` with the compiled model, prefill and decode apart, beside Inductor and eager.

Default options, each side in a process of its own, in turn; tokens must be eager's. A decode step reads all weights:
bytes over measured bandwidth stand beside it. See bench/README.md.

    python bench/engines/generate.py --json bench/results/generate.json
    python bench/engines/generate.py --quick
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

CHILD = "bench.engines.generate_child:generate"
SIDES = ("djinn", "inductor", "none")
#: family, layers, width: from small to large.
MODELS = {
    "llama-3x256": ("llama", 3, 256),
    "qwen3-4x512": ("qwen3", 4, 512),
    "opt-6x512": ("opt", 6, 512),
    "gpt_neox-6x768": ("gpt_neox", 6, 768),
    "llama-8x1024": ("llama", 8, 1024),
    "qwen3-12x1024": ("qwen3", 12, 1024),
}
DECODE_RATIO = 1.0
SECOND_CALL = 1.5
OF_BANDWIDTH = 1.25

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "")
    made.add_argument("--models", default=",".join(MODELS), metavar="A,B", help=f"of {', '.join(MODELS)}")
    made.add_argument("--caches", default="static,dynamic", help="static, dynamic (default both)")
    made.add_argument("--batches", default="1,8", help="default 1,8")
    made.add_argument("--tokens", type=int, default=256)
    made.add_argument("--times", type=int, default=4, help="calls of generate() in each process (default 4)")
    arguments = parse(made, argv)
    report, journal = Report("generate", arguments), Journal(arguments)
    names, caches, batches, tokens = arguments.models.split(","), arguments.caches.split(","), [1], arguments.tokens
    if arguments.quick:
        names, caches, tokens = names[:1], caches[:1], 24
    else:
        batches = [int(batch) for batch in arguments.batches.split(",")]
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        made.error(f"no model {unknown[0]!r}; known: {', '.join(MODELS)}")
    rows = []
    for name in names:
        for cache in caches:
            for batch in batches:
                given = {"cache": cache, "batch": batch, "prompt": 64, "tokens": tokens, "times": arguments.times}
                rounds = [
                    journal.once(f"{name} {given} {turn}", functools.partial(one_round, name, given, turn))
                    for turn in range(arguments.runs)
                ]
                rows += summarise(f"{name}, {cache}, batch {batch}", rounds, report)
    headers = ["", "side", "first call s", "second", "settled", "prefill ms", "decode ms", "of reading", "graphs",
               "memory", "tokens"]  # fmt: skip
    print("\nmemory in weights; graphs after ten tokens and at the end\n" + table(headers, rows))
    code = report.finish()
    journal.done()
    return code


def one_round(name: str, given: Mapping[str, Any], turn: int) -> dict[str, Found]:
    """Each side once."""
    family, layers, width = MODELS[name]
    found: dict[str, Found] = {}
    for side in rotated(SIDES, turn):
        with fresh_caches() as caches:
            asked = {"side": side, "family": family, "layers": layers, "width": width, **given}
            found[side] = call_child(CHILD, asked, caches)
        print(f"  {name} {given['cache']} {given['batch']} {side}: {1e3 * decode_s(found[side]):.2f} ms", flush=True)
    return found


def decode_s(one: Mapping[str, Any]) -> float:
    """A settled decode step: the median of the last call's second half."""
    last = one["calls"][-1][1:]
    return statistics.median(last[len(last) // 2 :])


def summarise(name: str, rounds: Sequence[Mapping[str, Found]], report: Report) -> list[list[object]]:
    """The rows of one case, and its bars."""
    rows: list[list[object]] = []
    for side in SIDES:
        ones = [each[side] for each in rounds]
        middle = functools.partial(_middle, ones)
        report.measured(f"{name}, {side}: decode", [decode_s(one) for one in ones], "s")
        report.measured(f"{name}, {side}: prefill", [one["calls"][-1][0] for one in ones], "s")
        rows.append([
            name if side == SIDES[0] else "",
            side,
            *(f"{middle(lambda one, call=call: sum(one['calls'][call])):.2f}" for call in (0, 1, -1)),
            f"{1e3 * middle(lambda one: one['calls'][-1][0]):.1f}",
            f"{1e3 * middle(decode_s):.2f}",
            f"{middle(_of_reading):.2f}",
            "/".join(map(str, ones[0]["graphs"])),
            f"{middle(lambda one: one['resident_bytes'] / one['weight_bytes']):.2f}",
            "equal" if all(one["right"] for one in ones) else "DIFFER",
        ])  # fmt: skip
    report.fact(name, [{side: {k: v for k, v in one.items() if k != "calls"} for side, one in each.items()}
                       for each in rounds])  # fmt: skip
    djinn = [each["djinn"] for each in rounds]
    peer = [min(decode_s(each[side]) for side in SIDES[1:]) for each in rounds]
    report.bar(f"{name}: tokens that differ", sum(not one["right"] for one in djinn), 0, "==")
    report.bar(
        f"{name}: decode, of the best peer",
        statistics.median(other / decode_s(one) for other, one in zip(peer, djinn, strict=True)),
        DECODE_RATIO,
        ">=",
    )
    report.bar(f"{name}: second call, settled", _middle(djinn, _second_call), SECOND_CALL)
    report.bar(f"{name}: decode, of reading the weights", _middle(djinn, _of_reading), OF_BANDWIDTH)
    late = max(one["graphs"][1] - one["graphs"][0] for one in djinn)
    report.bar(f"{name}: graphs compiled after ten tokens", late, 0)
    return rows


def _middle(ones: Sequence[Found], value: Any) -> float:
    return float(statistics.median(map(value, ones)))


def _second_call(one: Mapping[str, Any]) -> float:
    return float(sum(one["calls"][1]) / sum(one["calls"][-1]))


def _of_reading(one: Mapping[str, Any]) -> float:
    return float(decode_s(one) * one["bandwidth_bytes_s"] / one["weight_bytes"])


if __name__ == "__main__":
    sys.exit(main())
