"""Write docs/onnx_ops.md: which ops of torch's database our ONNX converter takes, and why not the others.

    python tools/onnx_table.py [--check] [--json FILE] [--from FILE] [--part K/N] [OP …]

Every op is tried in several element types on samples of the database: traced, converted, run by ONNX Runtime and by
OpenVINO in child processes, and compared with eager. With names of ops, their rows are printed and nothing is written.
With ``--part K/N`` every N-th op from the K-th on is tried and ``--json`` keeps what was found; ``--from`` writes the
page of such files (may be given several times).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the examination is among the tests

from tests.exam import onnx_ops  # noqa: E402

PAGE = ROOT / "docs" / "onnx_ops.md"
#: Found[op][flavour][dtype]: what became of it.
Found = dict[str, dict[str, dict[str, onnx_ops.Verdict]]]


def text_of(verdict: onnx_ops.Verdict) -> str:
    """For the table."""
    if verdict.wrong:
        return "WRONG: " + "; ".join(verdict.wrong)
    refused = sum(verdict.refused.values())
    reasons = "; ".join(verdict.refused)
    if not refused:
        return "yes"
    return f"{verdict.converted} of {verdict.converted + refused}: {reasons}" if verdict.converted else reasons


def cell_of(verdicts: dict[str, onnx_ops.Verdict]) -> str:
    """Types with the same verdict together."""
    grouped: dict[str, list[str]] = {}
    for dtype, verdict in verdicts.items():
        grouped.setdefault(text_of(verdict), []).append(dtype)
    if not grouped:
        return "no tensor to take"
    cells = [f"{', '.join(names) if len(grouped) > 1 else 'all'}: {text}" for text, names in grouped.items()]
    return "<br>".join(cell.replace("|", "/") for cell in cells)


def row(op: str, found: dict[str, dict[str, onnx_ops.Verdict]]) -> str:
    """The op's line of the table."""
    cells = {flavour: cell_of(found.get(flavour, {})) for flavour in onnx_ops.FLAVOURS}
    if len(set(cells.values())) == 1:
        return f"| `{op}` | {next(iter(cells.values()))} | the same |"
    return f"| `{op}` | {' | '.join(cells.values())} |"


def _class(verdicts: dict[str, onnx_ops.Verdict]) -> str:
    texts = [text_of(verdict) for verdict in verdicts.values()]
    if any(text.startswith("WRONG") for text in texts):
        return "wrong"
    if not texts:
        return "none"
    if all(text == "yes" for text in texts):
        return "whole"
    return "part" if any(verdict.converted for verdict in verdicts.values()) else "refused"


def counts(found: Found, flavour: str) -> Counter[str]:
    """How many ops are taken whole, in part, or refused."""
    return Counter(_class(one.get(flavour, {})) for one in found.values())


def page(found: Found) -> str:
    """The whole document."""
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    lines = [
        f"{names[flavour]} takes {count['whole']} of {len(found)} ops whole and {count['part']} in part; "
        f"{count['refused']} are refused, {count['none']} take no tensor of these types."
        for flavour in onnx_ops.FLAVOURS
        for count in [counts(found, flavour)]
    ]
    return "\n".join(
        [
            "# Ops that ONNX Runtime and OpenVINO are given",
            "",
            "Written by `python tools/onnx_table.py`: each op of torch's own database of ops in",
            f"{', '.join(onnx_ops.SAMPLES)}, on a few of its samples; functions of one or two tensors also on NaN and",
            "infinities. Traced, converted by `djinn_fx/engines/onnx`, run by the runtime in float32 and compared with",
            "eager, strides too. *yes*: all samples came out as eager's. Otherwise how many did, and why others not.",
            "Random numbers and results whose size depends on data are always refused.",
            "",
            *lines,
            "",
            "| op | ONNX Runtime | OpenVINO |",
            "| --- | --- | --- |",
            *(row(op, one) for op, one in found.items()),
            "",
        ]
    )


def examine(ops: Sequence[str], flavours: Sequence[str], quiet: bool) -> Found:
    """Try ops in child processes."""
    found: Found = {}
    for answer in onnx_ops.ask(ops, flavours):
        found.setdefault(answer.op, {}).setdefault(answer.flavour, {})[answer.dtype] = answer.verdict
        if not quiet or answer.verdict.wrong:
            print(f"{answer.op} {answer.flavour} {answer.dtype}: {text_of(answer.verdict)}", flush=True)
    for op in ops:
        found.setdefault(op, {})
    return found


def _write(found: Found, path: Path) -> None:
    path.write_text(
        json.dumps(
            {op: {f: {d: vars(v) for d, v in e.items()} for f, e in one.items()} for op, one in found.items()}, indent=1
        ),
        "utf-8",
    )


def _read(path: Path) -> Found:
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return {
        op: {f: {d: onnx_ops.Verdict(**v) for d, v in e.items()} for f, e in one.items()} for op, one in data.items()
    }


def rows_of(text: str) -> dict[str, str]:
    """The lines of a page, by the op's name."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


def main(arguments: list[str]) -> int:
    """Entry point; 1 if a row is wrong, or under --check if the page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="sources", type=Path, action="append", default=[])
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--flavour", choices=onnx_ops.FLAVOURS, action="append")
    parser.add_argument("ops", nargs="*")
    given = parser.parse_args(arguments)
    place, parts = (int(number) for number in given.part.split("/"))
    everything = onnx_ops.names()
    chosen = [op for op in everything if not given.ops or op in given.ops or op.split(" ")[0] in given.ops]
    if given.sources:
        found = {op: one for source in given.sources for op, one in _read(source).items()}
        found = {op: found[op] for op in everything if op in found}
    else:
        found = examine(chosen[place::parts], given.flavour or onnx_ops.FLAVOURS, parts == 1 and not given.ops)
    if given.json:
        _write(found, given.json)
    wrong = int(any(counts(found, flavour)["wrong"] for flavour in onnx_ops.FLAVOURS))
    for flavour in onnx_ops.FLAVOURS:
        print(flavour, dict(counts(found, flavour)))
    if given.ops or parts > 1:
        return wrong
    text = page(found)
    if given.check:
        return int(PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
