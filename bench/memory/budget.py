"""A model larger than its memory: djinn's ring beside Accelerate's disk offload and mapped files, under the same limit.

    python bench/memory/budget.py --json bench/results/memory_budget.json --work DIR     # minutes, 26 GB of disk
    python bench/memory/budget.py --quick                                                # 1.4 GB under 0.7, a minute

A Llama of random float32 weights is written to DIR and deleted at the end. With --keep it stays, and a later run with
--keep finds it, so that writing need not disturb measuring (--write-only). Every side is a process in a control group
that holds it to the budget from before it begins, page cache included, and has a copy of the files of its own, so that
nobody reads what another one's page cache holds.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.children import Caches, ChildFailedError, call_child, fresh_caches
from bench.harness.harness import Report, parse, parser, ratio, rotated, successive, table
from bench.harness.standing import Standing
from bench.memory.limits import Limit, Watched

CHILD = "bench.memory.budget_child"
#: Bytes of the budget, and of the weights that are written (a little more).
BUDGET, QUICK_BUDGET = 2_000_000_000, 700_000_000
WRITTEN, QUICK_WRITTEN = 6_300_000_000, 1_600_000_000
#: In a folder whose weights are all there.
COMPLETE = "complete"
#: Lengths of the prompts, and tokens after the first one, each decoded by itself.
PROMPTS = {"prefill 64": (64, 3), "prefill 256": (256, 0)}
RIVALS = ("accelerate", "mapped", "advised")
#: Bars of the issue that this bench is for.
DECODE, FLOOR, PREFILL, OVER = 1.0, 1.25, 1.5, 1.05
#: How often the model is asked in memory, for the least time.
COMPUTED = 3
#: Bytes that each pattern of reading is timed on, a round.
RATED, QUICK_RATED = 400_000_000, 150_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    made = parser(__doc__ or "", runs=2)
    made.add_argument(
        "--work", type=Path, metavar="DIR", help="where the weights are written (default: temporary files)"
    )
    made.add_argument("--keep", action="store_true", help="leave the weights in DIR, and use those that are there")
    made.add_argument("--write-only", action="store_true", help="with --keep: write the weights and measure nothing")
    made.add_argument("--sides", default=",".join(("djinn", *RIVALS)), help="which sides, separated by commas")
    arguments = parse(made, argv)
    report = Report("memory_budget", arguments)
    if arguments.keep and arguments.work is None:
        made.error("--keep needs --work: where the weights are to stay")
    with place(arguments) as work, fresh_caches() as caches:
        sides = tuple(arguments.sides.split(","))
        folders = {side: work / side.replace(" ", "-") for side in sides}
        lacking = [side for side, folder in folders.items() if not (folder / COMPLETE).exists()]
        needed = (QUICK_WRITTEN if arguments.quick else WRITTEN) * len(lacking)
        if shutil.disk_usage(work).free < needed * 1.1:
            print(f"{work} has no room for {needed / 1e9:.1f} GB of weights: name another place with --work")
            return 2
        try:
            report.fact("weights_bytes", write(folders, lacking, caches, arguments.quick))
        except (ChildFailedError, OSError) as error:
            print(
                f"{work}: the weights were not written, nothing is left of them: {str(error).strip().splitlines()[-1]}"
            )
            return 2
        if arguments.write_only:
            return 0
        compute = in_memory(report, folders[sides[0]], caches, arguments.quick)
        measure(report, folders, caches, arguments, compute)
    return report.finish()


@contextlib.contextmanager
def place(arguments: Namespace) -> Iterator[Path]:
    """Where the weights are written."""
    if arguments.keep:
        kept = arguments.work / ("quick" if arguments.quick else "full")
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="djinn-budget-", dir=arguments.work) as work:
        yield Path(work)


def write(folders: dict[str, Path], lacking: Sequence[str], caches: Caches, quick: bool) -> int:
    """The weights, a folder for each side. Returns their bytes."""
    for side in lacking:
        shutil.rmtree(folders[side], ignore_errors=True)
        folders[side].mkdir()
        whole = next((folder for folder in folders.values() if (folder / COMPLETE).exists()), None)
        try:
            _write_one(folders[side], whole, caches, quick)
        except BaseException:  # a full disk, an interrupt: half a model is of no use
            shutil.rmtree(folders[side], ignore_errors=True)
            raise
        (folders[side] / COMPLETE).touch()
    for folder in folders.values():  # what an earlier run left in the page cache counts in no group
        forget_all(*folder.glob("*.safetensors"), *folder.glob("*.dat"))
    size = sum(file.stat().st_size for file in next(iter(folders.values())).glob("*.safetensors"))
    print(f"{size / 1e9:.2f} GB of weights, {len(folders)} copies", flush=True)
    return size


def _write_one(folder: Path, whole: Path | None, caches: Caches, quick: bool) -> None:
    """The weights of one side: made, or copied from those of another."""
    if whole is None:
        call_child(f"{CHILD}:write", {"folder": str(folder), "quick": quick}, caches)
        return
    for file in (*whole.glob("model*.safetensors"), whole / "model.safetensors.index.json"):
        shutil.copy(file, folder / file.name)
        forget_all(file, folder / file.name)


def forget_all(*files: Path) -> None:
    """Have these files out of the page cache."""
    from bench.memory.budget_child import forget

    for file in files:
        forget(file)


def in_memory(report: Report, folder: Path, caches: Caches, quick: bool) -> dict[str, Any]:
    """Tokens and seconds without a limit: the least of some times."""
    arguments = {"side": "in memory", "folder": str(folder), "quick": quick, "budget": 0}
    found = {}
    with Standing(f"{CHILD}:Side", arguments, caches) as child:
        for name, (length, more) in PROMPTS.items():
            times = [child.ask("answer", length=length, more=more) for _ in range(COMPUTED)]
            least = [min(seconds) for seconds in zip(*(one["seconds"] for one in times), strict=True)]
            found[name] = {**times[-1], "seconds": least}
    for name, one in found.items():
        report.measured(f"{name}, in memory", one["seconds"][:1], "s")
    report.measured("decode, in memory", found["prefill 64"]["seconds"][1:], "s")
    return found


@contextlib.contextmanager
def standing(side: str, folder: Path, caches: Caches, quick: bool) -> Iterator[tuple[Standing, Limit, Watched]]:
    """A side in its group."""
    budget = QUICK_BUDGET if quick else BUDGET
    arguments = {"side": side, "folder": str(folder), "quick": quick, "budget": budget}
    own = replace(caches, home=caches.home / side.replace(" ", "-"))
    with Limit(side.replace(" ", "-"), budget) as limit:
        child = Standing(f"{CHILD}:Side", arguments, own, prefix=limit.prefix)
        watched = Watched(child.pid)
        try:
            with child:
                yield child, limit, watched
        finally:
            watched.stop()


def measure(
    report: Report, folders: dict[str, Path], caches: Caches, arguments: Namespace, compute: dict[str, Any]
) -> None:
    """All sides in turn, round by round."""
    quick, rounds = arguments.quick, arguments.runs
    answers: dict[str, dict[str, list[dict[str, Any]]]] = {side: {name: [] for name in PROMPTS} for side in folders}
    best_rates, memory = [], {}
    with contextlib.ExitStack() as stack:
        children = {
            side: stack.enter_context(standing(side, folder, caches, quick)) for side, folder in folders.items()
        }
        for side, (child, limit, _) in children.items():
            loaded = child.ask("loaded")
            print(f"{side}: loaded in {loaded['seconds']:.1f} s, {limit.held_by or 'RSS looked at'}", flush=True)
            print(loaded.get("plan", ""), end="\n" if "plan" in loaded else "", flush=True)
            child.ask("answer", length=8, more=0)
        for turn in range(rounds):
            rates = [rated(next(iter(folders.values())), caches, quick)]
            for side in rotated(list(folders), turn):
                for name, (length, more) in PROMPTS.items():
                    one = children[side][0].ask("answer", length=length, more=more)
                    answers[side][name].append(one)
                    line = " ".join(f"{s:.2f}" for s in one["seconds"])
                    print(f"  {side}, {name}: {line} s, {one['major_faults']} major faults", flush=True)
            rates.append(rated(next(iter(folders.values())), caches, quick))
            best_rates.append(max(rates))
        for side, (_, limit, watched) in children.items():
            memory[side] = {"held_by": limit.held_by, "rss_most": watched.most, **limit.figures()}
    told(report, answers, memory, best_rates, compute)
    bars(report, answers, memory, best_rates, compute, QUICK_BUDGET if quick else BUDGET)


def rated(folder: Path, caches: Caches, quick: bool) -> float:
    """The best rate of reading now, bytes a second."""
    size = QUICK_RATED if quick else RATED
    rates = call_child(f"{CHILD}:rates", {"folder": str(folder), "size": size}, caches)
    print("disk: " + ", ".join(f"{name} {rate / 1e9:.2f} GB/s" for name, rate in rates.items()), flush=True)
    return float(max(rates.values()))


def series(answers: dict[str, list[dict[str, Any]]], what: str) -> list[float]:
    """Seconds, one a round: of a prompt's first token, or the mean of a round's decoded ones."""
    if what == "decode":
        return [statistics.fmean(one["seconds"][1:]) for one in answers["prefill 64"]]
    return [one["seconds"][0] for one in answers[what]]


WHAT = ("decode", *PROMPTS)


def told(
    report: Report, answers: dict[str, Any], memory: dict[str, Any], best_rates: list[float], compute: dict[str, Any]
) -> None:
    """Tables, and every sample into the report."""
    rows = []
    for side, found in answers.items():
        seconds = [report.measured(f"{what}, {side}", series(found, what), "s") for what in WHAT]
        faults = sum(one["major_faults"] for name in PROMPTS for one in found[name])
        kept = memory[side]
        sizes = [f"{kept.get(key, 0) / 1e9:.2f}" for key in ("anonymous", "page_cache", "most", "rss_most")]
        rows.append([side, *(f"{s:.2f}" for s in seconds), *sizes, faults])
    headers = ["", *(f"{what}, s" for what in WHAT), "anonymous, GB", "page cache", "most", "most RSS", "major faults"]
    print("\n" + table(headers, rows), flush=True)
    report.fact("memory", memory)
    report.fact("tokens", {s: {n: found[n][0]["tokens"] for n in PROMPTS} for s, found in answers.items()})
    report.measured("best read rate of a round", best_rates, "B/s")
    report.fact("evicted", {s: f["prefill 64"][-1].get("evicted") for s, f in answers.items() if s == "djinn"})


def floors(found: dict[str, Any], best_rates: list[float], compute: dict[str, Any], what: str) -> list[float]:
    """Seconds that a call must take, one a round: reading what is not there, or computing."""
    least = []
    for turn, rate in enumerate(best_rates):
        if what == "decode":
            one = found["prefill 64"][turn]
            count = len(one["seconds"]) - 1
            must_read = (count * one["pass_bytes"] - one["ahead"][1]) / count
            computing = statistics.fmean(compute["prefill 64"]["seconds"][1:])
        else:
            one = found[what][turn]
            must_read = one["pass_bytes"] - one["ahead"][0]
            computing = compute[what]["seconds"][0]
        least.append(max(must_read / rate, computing))
    return least


def bars(
    report: Report, answers: dict[str, Any], memory: dict[str, Any], best_rates: list[float], compute: dict[str, Any],
    budget: int,
) -> None:  # fmt: skip
    """Hold figures against the issue's bounds."""
    ours = answers["djinn"]
    rivals = {side: found for side, found in answers.items() if side != "djinn"}
    equal = all(one["tokens"] == compute[name]["tokens"] for name in PROMPTS for one in ours[name])
    report.bar("tokens equal", float(equal), 1.0, "==")
    kept = memory["djinn"]
    report.bar("most memory / budget", kept.get("most", kept["rss_most"]) / budget, 1.0 if "most" in kept else OVER)
    report.bar("most RSS / budget", kept["rss_most"] / budget, OVER)
    best: float | None = None
    for side, found in rivals.items():
        speeds = report.ratio(
            f"decode {side}/djinn", ratio(series(found, "decode"), series(ours, "decode")),
            successive(series(ours, "decode")),
        )  # fmt: skip
        best = speeds.median if best is None else min(best, speeds.median)
    report.bar("decode, best rival / djinn", best, DECODE, ">=")
    for what in PROMPTS:
        theirs = rivals.get("accelerate")
        found = ratio(series(theirs, what), series(ours, what)) if theirs else None
        if found is not None:
            report.ratio(f"{what} accelerate/djinn", found, successive(series(ours, what)))
        report.bar(f"{what}, accelerate / djinn", found.median if found else None, PREFILL, ">=")
    for what in WHAT:
        over = ratio(series(ours, what), floors(ours, best_rates, compute, what))
        report.ratio(f"{what} djinn/floor", over, None)
        if what == "decode":
            report.bar("decode / floor", over.median, FLOOR)
        report.bar(f"{what}, no call below its floor", over.low, 1.0, ">=")


if __name__ == "__main__":
    sys.exit(main())
