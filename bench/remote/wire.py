"""A message with one tensor as a frame of ours, beside what others make of it, both ways and by size.

* Buffers apart: header and memory go to a carrier one after the other, as they lie. Beside pickle's protocol 5 out of
  band. ``made`` and ``read`` touch no byte of the tensor; ``carried`` is both and the least that any carrier does: one
  copy into the receiver's memory.
* One buffer: everything in one array of bytes. Beside pickle in band, torch.save, safetensors, numpy.save.

Equal is what is within the noise floor: how far from 1 the same frame is against itself, 19 times in 20, in the same
run. Where that is wide, little is said: it stands in the table and beside the bars.

Neither side takes a digest of the tensor, as none of the others does; what it costs is told beside.

    python bench/remote/wire.py --json bench/results/wire.json
    python bench/remote/wire.py --quick
"""

from __future__ import annotations

import argparse
import functools
import io
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import safetensors.torch
import torch

from bench.harness.harness import Report, floor, interleave, no_gc, parse, parser, ratio, table
from djinn_fx.remote.wire.frame import decode, encode, joined
from djinn_fx.remote.wire.payload import payload_of

SIZES = (2**10, 2**12, 2**16, 2**20, 2**22, 2**24, 2**26, 2**28)
QUICK_SIZES = (2**10, 2**20, 2**22)
#: From here on nobody may be faster.
FROM = 2**20
#: The widest noise floor that "equal" is said by.
WIDEST = 1.25
#: From here on a third of the rounds.
LARGE = 2**26
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: What a block of calls touches about, so that reading the clock does not count.
BLOCK_BYTES = 2**24
MOST_CALLS = 200
FIELDS = {"call": 7, "region": "f3a9", "phase": "decode"}
OURS, AGAIN = "frame", "frame again"


@dataclass(frozen=True)
class Way:
    """One way to make bytes of a message and a message of bytes."""

    make: Callable[[torch.Tensor], Any]
    read: Callable[[Any], torch.Tensor]


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    """Its memory; numpy lacks bfloat16."""
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _torch(array: np.ndarray, dtype: str) -> torch.Tensor:
    found = torch.from_numpy(array)
    return found.view(torch.bfloat16) if dtype == "bfloat16" else found


def _message(tensor: torch.Tensor) -> dict[str, Any]:
    """What others are given; they must be told the type that numpy lacks too."""
    return {"kind": "call", "fields": FIELDS, "x": _numpy(tensor), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _frame(tensor: torch.Tensor) -> list[bytes | memoryview]:
    return encode("call", FIELDS, {"x": payload_of(tensor)}, digests=False)


def _apart(tensor: torch.Tensor) -> list[bytes | memoryview]:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(_message(tensor), protocol=5, buffer_callback=buffers.append)
    return [head, *(one.raw() for one in buffers)]


def _of_apart(pieces: Sequence[Any]) -> torch.Tensor:
    head, *buffers = pieces
    found = pickle.loads(head, buffers=buffers)
    return _torch(found["x"], found["dtype"])


def _in_band(raw: bytes) -> torch.Tensor:
    found = pickle.loads(raw)
    return _torch(found["x"], found["dtype"])


def _saved(tensor: torch.Tensor) -> memoryview:
    into = io.BytesIO()
    torch.save({"kind": "call", "fields": FIELDS, "x": tensor}, into)
    return into.getbuffer()


def _np_saved(tensor: torch.Tensor) -> memoryview:
    into = io.BytesIO()
    np.save(into, _numpy(tensor), allow_pickle=False)
    return into.getbuffer()


def _np_loaded(dtype: str, raw: memoryview) -> torch.Tensor:
    return _torch(np.load(io.BytesIO(raw), allow_pickle=False), dtype)


def _safetensors(tensor: torch.Tensor) -> bytes:
    return safetensors.torch.save({"x": tensor}, {"kind": "call", "fields": str(FIELDS)})


def one_buffer(dtype: str) -> dict[str, Way]:
    """Ways to make one buffer."""
    ours = Way(lambda tensor: joined(_frame(tensor)), lambda raw: decode(raw).tensors["x"])
    return {
        OURS: ours,
        AGAIN: ours,
        "pickle": Way(lambda tensor: pickle.dumps(_message(tensor), protocol=5), _in_band),
        "torch.save": Way(_saved, lambda raw: torch.load(io.BytesIO(raw), weights_only=True)["x"]),
        "safetensors": Way(_safetensors, lambda raw: safetensors.torch.load(raw)["x"]),
        "numpy.save": Way(_np_saved, functools.partial(_np_loaded, dtype)),
    }


def buffers_apart() -> dict[str, Way]:
    """Ways to leave the tensor's memory where it is."""
    ours = Way(_frame, lambda pieces: decode(pieces).tensors["x"])
    return {OURS: ours, AGAIN: ours, "pickle out of band": Way(_apart, _of_apart)}


class Carrier:
    """The receiver's memory, which is there already: what comes is copied into it, once."""

    def __init__(self, nbytes: int) -> None:
        self._memory = np.zeros(nbytes + 2**12, dtype=np.uint8)

    def frame(self, pieces: Sequence[Any]) -> memoryview:
        """A frame of ours lies there as one."""
        return self._memory.data[: self._take(pieces)[-1]]

    def apart(self, pieces: Sequence[Any]) -> list[memoryview]:
        """Others' pieces lie there one after the other."""
        ends = self._take(pieces)
        return [self._memory.data[end - len(piece) : end] for piece, end in zip(pieces, ends, strict=True)]

    def _take(self, pieces: Sequence[Any]) -> list[int]:
        place, ends = 0, []
        for piece in pieces:
            self._memory[place : place + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
            place += len(piece)
            ends.append(place)
        return ends


Sampled = dict[str, dict[str, list[float]]]


def sampled(tensor: torch.Tensor, dtype: str, rounds: int) -> Sampled:
    """Seconds of each way, by what is timed."""
    several = max(1, min(MOST_CALLS, BLOCK_BYTES // max(1, tensor.nbytes)))
    carrier = Carrier(tensor.nbytes)
    apart, one = buffers_apart(), one_buffer(dtype)
    laid = {name: carrier.apart if name not in (OURS, AGAIN) else carrier.frame for name in apart}
    came = {name: laid[name](way.make(tensor)) for name, way in apart.items() if name not in (OURS, AGAIN)}
    ours = Carrier(tensor.nbytes)
    came |= dict.fromkeys((OURS, AGAIN), ours.frame(_frame(tensor)))
    whole = {name: way.make(tensor) for name, way in one.items()}
    for name, way in one.items():
        assert torch.equal(way.read(whole[name]), tensor), name

    def there_and_back(name: str, way: Way) -> torch.Tensor:
        return way.read(laid[name](way.make(tensor)))

    for name, way in apart.items():
        assert torch.equal(there_and_back(name, way), tensor), name
    timed: dict[str, dict[str, Callable[[], Any]]] = {
        "made": {name: functools.partial(way.make, tensor) for name, way in apart.items()},
        "read": {name: functools.partial(way.read, came[name]) for name, way in apart.items()},
        "carried": {name: functools.partial(there_and_back, name, way) for name, way in apart.items()},
        "joined": {name: functools.partial(way.make, tensor) for name, way in one.items()},
        "read back": {name: functools.partial(way.read, whole[name]) for name, way in one.items()},
        "both ways": {name: functools.partial(_both, way, tensor) for name, way in one.items()},
    }
    found = {}
    for what, cases in timed.items():
        calls = MOST_CALLS if what in ("made", "read") else several
        blocks = {name: functools.partial(_block, call, calls) for name, call in cases.items()}
        found[what] = interleave(blocks, rounds)
    return found


def _block(call: Callable[[], Any], calls: int) -> float:
    """Seconds a call. One goes before: collecting garbage has emptied the caches."""
    with no_gc():
        call()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls


def _both(way: Way, tensor: torch.Tensor) -> torch.Tensor:
    return way.read(way.make(tensor))


def digest_seconds(tensor: torch.Tensor) -> float:
    """What taking the tensor's digest takes one side."""
    return _block(lambda: payload_of(tensor).digest, 3)


#: What is held against its peers. Making and reading buffers apart is told only: microseconds, whatever the size.
BARRED = ("carried", "joined", "read back", "both ways")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=15), argv)
    torch.set_num_threads(1)
    report = Report("wire", arguments)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    worst: dict[tuple[str, str], float] = {}
    floors: dict[str, float] = {}
    for dtype, kind in DTYPES.items():
        rows: list[list[str]] = []
        for nbytes in sizes:
            _measure(report, arguments, dtype, torch.randn(nbytes // kind.itemsize).to(kind), rows, worst, floors)
        print(f"\n{dtype}: microseconds; in brackets others / frame\n\n" + table(_HEADERS, rows), flush=True)
    report.fact("widest noise floor, from 1 MiB", floors)
    print("\nwidest noise floor, from 1 MiB: " + ", ".join(f"{what} {one:.3f}" for what, one in floors.items()))
    # Within a wider one a frame that is slower would pass as equal.
    report.bar("widest noise floor, from 1 MiB", max(floors.values(), default=None), WIDEST)
    for what, peer in worst:
        report.bar(f"{what}: frame / {peer}, from 1 MiB, over the noise floor", worst[what, peer], 1.0)
    return report.finish()


_HEADERS = ("bytes", "what", "frame", "noise", "others")


def _measure(
    report: Report,
    arguments: argparse.Namespace,
    dtype: str,
    tensor: torch.Tensor,
    rows: list[list[str]],
    worst: dict[tuple[str, str], float],
    floors: dict[str, float],
) -> None:
    """One tensor: what it takes, the worst ratio by what is timed and peer, and the widest noise floor."""
    rounds = max(3, arguments.runs if tensor.nbytes < LARGE else arguments.runs // 3)
    for what, series in sampled(tensor, dtype, rounds).items():
        label = f"{dtype} {tensor.nbytes} {what}"
        noise = ratio(series[AGAIN], series[OURS])
        within = floor(noise)
        if what in BARRED and tensor.nbytes >= FROM:
            floors[what] = max(floors.get(what, 1.0), within)
        found = {name: report.measured(f"{label}: {name}", samples, "s") for name, samples in series.items()}
        others = []
        for name in series:
            if name in (OURS, AGAIN):
                continue
            one = report.ratio(f"{label}: frame / {name}", ratio(series[OURS], series[name]), noise)
            others.append(f"{name} {found[name] * 1e6:.1f} ({1 / one.median:.2f})")
            if what in BARRED and tensor.nbytes >= FROM:
                key = (what, name)
                worst[key] = max(worst.get(key, 0.0), one.median / within)
        rows.append([f"{tensor.nbytes}", what, f"{found[OURS] * 1e6:.1f}", f"{within:.3f}", ", ".join(others)])
    report.measured(f"{dtype} {tensor.nbytes} digest", [digest_seconds(tensor)], "s")


if __name__ == "__main__":
    sys.exit(main())
