"""What djinn-fx does for a model, on your machine: ``make demo``.

A Transformers decoder is compiled with default options, in a first process with empty caches and in a second one,
beside eager and torch.compile's own compiler, Inductor; each in a process of its own. A minute or two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Calls after the first; the median of the later half is a settled call.
CALLS = 60
#: Logits may differ from eager's by so much.
RTOL, ATOL = 1e-3, 1e-4


def main() -> int:
    """Run the demo; the exit code is 1 if a compiled model computes something else than eager."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=384, help="a multiple of 64")
    parser.add_argument("--keep-cache", action="store_true", help="use your caches instead of empty ones")
    parser.add_argument("--measure", choices=("eager", "inductor", "djinn"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.layers < 1 or arguments.hidden < 64 or arguments.hidden % 64:
        parser.error("--layers must be at least 1, and --hidden a multiple of 64")
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.layers, arguments.hidden)))
        return 0
    with tempfile.TemporaryDirectory(prefix="djinn-demo-", ignore_cleanup_errors=True) as folder:
        return demo(arguments.layers, arguments.hidden, None if arguments.keep_cache else Path(folder))


def demo(layers: int, hidden: int, folder: Path | None) -> int:
    """Measure each side in processes of its own, print the table, the verdict, and who serves."""
    print(f"A Llama decoder of {layers} layers, hidden size {hidden}, random weights; one prompt of 128 tokens.\n")
    found = {}
    for process in ("first", "second"):
        for side in ("eager", "inductor", "djinn"):
            found[process, side] = in_a_process(side, layers, hidden, folder)
            print(f"  {process} process, {side}: first call {found[process, side]['first_s']:.2f} s", flush=True)
    print(f"\n{table(found)}\n\n{verdict(found)}\n")
    print("What serves the calls now (djinn_fx.status):\n" + found["second", "djinn"]["status"])
    print("\nWhat was decided and why:  python -m djinn_fx.explain examples/decoder.py")
    return int(any(not one["right"] for one in found.values()))


def in_a_process(side: str, layers: int, hidden: int, folder: Path | None) -> dict[str, Any]:
    """What one side takes in a new process, with caches in the folder."""
    command = [sys.executable, __file__, f"--layers={layers}", f"--hidden={hidden}", f"--measure={side}"]
    variables = dict(os.environ)
    if folder is not None:
        variables |= {"DJINN_CACHE_DIR": str(folder / "djinn"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(side: str, layers: int, hidden: int) -> dict[str, Any]:
    """The first call and a settled one, in this process."""
    import torch
    from decoder import get_inputs, get_model

    torch.manual_seed(0)
    model, inputs = get_model(layers, hidden), get_inputs()
    with torch.no_grad():
        expected = model(**inputs).logits
        start = time.perf_counter()
        run = model if side == "eager" else torch.compile(model, backend=side)
        actual = run(**inputs).logits
        first_s = time.perf_counter() - start
        seconds = [_seconds(lambda: run(**inputs)) for _ in range(CALLS)]
        right = all(torch.allclose(expected, one, rtol=RTOL, atol=ATOL) for one in (actual, run(**inputs).logits))
    found = {"first_s": first_s, "settled_s": statistics.median(seconds[CALLS // 2 :]), "right": right}
    if side == "djinn":
        import djinn_fx

        found["status"] = str(djinn_fx.status(run))
    return found


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def table(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Three rows, a column a side."""
    sides = ("eager", "inductor", "djinn")
    rows = [
        ("first call", *(f"{found['first', side]['first_s']:.2f} s" for side in sides)),
        ("first call of a second process", *(f"{found['second', side]['first_s']:.2f} s" for side in sides)),
        ("a settled call", *(f"{1e3 * found['second', side]['settled_s']:.1f} ms" for side in sides)),
        ("equal to eager", *("yes" if _right(found, side) else "NO" for side in sides)),
    ]
    lines = [("", *sides), *rows]
    return "\n".join(f"{name:32}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in lines)


def _right(found: dict[tuple[str, str], dict[str, Any]], side: str) -> bool:
    return all(found[process, side]["right"] for process in ("first", "second"))


def verdict(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """One sentence: better and worse alike."""

    def times(process: str, key: str, other: str) -> float:
        return float(found[process, other][key] / found[process, "djinn"][key])

    def said(factor: float, better: str, worse: str) -> str:
        return f"{factor:.1f} times {better}" if factor >= 1 else f"{1 / factor:.1f} times {worse}"

    eager, djinn = found["first", "eager"], found["first", "djinn"]
    gained = eager["settled_s"] - found["second", "djinn"]["settled_s"]
    pays = (
        f"it pays for its first call after {max(1, round(djinn['first_s'] / gained))} calls, in a second process after "
        f"{max(1, round(found['second', 'djinn']['first_s'] / gained))}"
        if gained > 0
        else "on this model it does not pay"
    )
    first = said(times("first", "first_s", "inductor"), "sooner", "later")
    second = said(times("second", "first_s", "inductor"), "sooner", "later")
    settled = said(times("second", "settled_s", "inductor"), "as fast", "slower")
    against_eager = said(times("second", "settled_s", "eager"), "as fast", "slower")
    return (
        f"Verdict: against Inductor the first call is {first}, that of a second process {second}, a settled call "
        f"{settled}; against eager {against_eager}: {pays}."
    )


if __name__ == "__main__":
    sys.exit(main())
