"""What a client sends to a worker in a session with a Llama, against sending the whole form of the graph each time.

A real Sender and a real Receiver exchange real frames; after each step the worker's graph and weights are compared with
the client's by their digests. Bytes are those of all frames to the worker, answers apart.

* Session: prompts of other lengths and decode steps in turns, then edits of the graph.
* Tuning: adapters beside two projections of each layer, the last layer alone, and everything. Held against the full
  form with the weights of each layer in which anything changed, and against the full form with all weights.

    python bench/remote/delta_protocol.py --json bench/results/delta_protocol.json
    python bench/remote/delta_protocol.py --quick
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.harness.harness import Report, parse, parser, table
from bench.harness.models import build
from bench.remote.session import Wanted, adapt, decode_step, edits, prefill, step, wanted
from djinn_fx.remote.delta.edits import applied, difference
from djinn_fx.remote.delta.graph import GraphForm, checked
from djinn_fx.remote.delta.messages import Full, Weights, from_frame, grouped, to_frame
from djinn_fx.remote.delta.receiver import Receiver
from djinn_fx.remote.delta.sender import GROUP_BYTES, Sender
from djinn_fx.remote.wire.frame import decode, joined
from djinn_fx.remote.wire.payload import Payload
from djinn_fx.remote.wire.text import written

#: Times fewer bytes; and how many times as many where everything changed.
SESSION_BAR, TUNING_BAR, ALL_BAR = 10.0, 10.0, 1.02
LENGTHS = (64, 65, 128, 33, 200)


@dataclass(frozen=True)
class Bytes:
    """What one step takes.

    Attributes:
        graph: frames about the graph.
        deflated: the same, each compressed by zlib.
        weights: frames of weights.
    """

    graph: int = 0
    deflated: int = 0
    weights: int = 0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.graph + other.graph, self.deflated + other.deflated, self.weights + other.weights)


@dataclass(frozen=True)
class Step:
    """One change, three ways to send it."""

    name: str
    sent: Bytes
    whole: Bytes
    """The full form, and the weights of layers in which anything changed."""
    everything: Bytes
    """The full form, and all weights."""
    answers: int


class Session:
    """A client and a worker, and what went from one to the other."""

    def __init__(self) -> None:
        self.client, self.worker = Sender(1), Receiver(1)
        self.steps: list[Step] = []
        self.last: Wanted | None = None

    def want(self, name: str, one: Wanted) -> Step:
        """Make the worker have a graph, and look whether it has."""
        sent, answers = Bytes(), 0
        messages = self.client.update(one.graph, one.payloads)
        while messages:
            frames = [joined(to_frame(message)) for message in messages]
            sent = sum(map(_counted, messages, frames), sent)
            replies = [reply for frame in frames for reply in self.worker.receive(from_frame(decode(frame)))]
            answers += sum(len(joined(to_frame(reply))) for reply in replies)
            messages = [message for reply in replies for message in self.client.receive(reply)]
        assert self.client.ready
        assert self.worker.graph is not None
        assert self.worker.graph.digest == one.graph.digest
        changed = one.of_changed_layers(self.last) if self.last is not None else one.payloads
        found = Step(name, sent, _in_full(one, changed), _in_full(one, one.payloads), answers)
        self.steps.append(found)
        self.last = one
        return found


def _counted(message: Any, frame: Any) -> Bytes:
    if isinstance(message, Weights):
        return Bytes(weights=len(frame))
    return Bytes(graph=len(frame), deflated=len(zlib.compress(frame.tobytes())))


def _in_full(one: Wanted, payloads: Mapping[str, Payload]) -> Bytes:
    """Frames of the full form and of some weights."""
    whole = Full(session=1, version=1, digest=one.graph.digest, graph=one.graph, follow=tuple(payloads))
    frames = (to_frame(Weights(payloads=group)) for group in grouped(payloads, GROUP_BYTES))
    return _counted(whole, joined(to_frame(whole))) + Bytes(weights=sum(len(p) for pieces in frames for p in pieces))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=5)
    made.add_argument("--layers", type=int, help="of the Llama (default 12; with --quick 4)")
    arguments = parse(made, argv)
    report = Report("delta_protocol", arguments)
    model, _, _ = build(f"llama-{arguments.layers or (4 if arguments.quick else 12)}", quick=arguments.quick)
    graphs = _session(model, report, arguments)
    _tuning(model, report, arguments)
    _break_even(report, graphs, arguments.runs)
    return report.finish()


# -- the session ----------------------------------------------------------------------------------------------------


def _session(model: Any, report: Report, arguments: argparse.Namespace) -> list[GraphForm]:
    """Prompts, decode steps and edits. Returns two graphs that differ in their shapes."""
    session, lengths = Session(), LENGTHS[:3] if arguments.quick else LENGTHS
    prompts = [wanted(model, prefill(model, tokens)) for tokens in lengths]
    decoding = wanted(model, decode_step(model))
    session.want("first prompt", prompts[0])
    session.want("first decode step", decoding)
    for tokens, prompt in zip(lengths[1:], prompts[1:], strict=True):
        session.want(f"prompt of {tokens}", prompt)
        session.want("decode step", decoding)
    session.want(f"prompt of {lengths[0]} again", prompts[0])
    for name, edit in edits(model, lengths[0]).items():
        session.want(name, wanted(model, edit()))
        session.want("… and back", prompts[0])
    _print(session.steps, report, "session")
    later = session.steps[2:]
    for name, kind in (("session", "graph"), ("session deflated", "deflated")):
        times = _total(later, "whole", kind) / _total(later, "sent", kind)
        report.bar(f"{name}: full forms / sent", times, SESSION_BAR, ">=")
    new = [one for one in later if one.name not in ("decode step", "… and back") and "again" not in one.name]
    times = [getattr(one.whole, kind) / getattr(one.sent, kind) for one in new for kind in ("graph",)]
    report.fact("new graphs alone: full form / sent, median and smallest", [statistics.median(times), min(times)])
    print(f"new graphs alone: full form / sent {statistics.median(times):.1f} (median), {min(times):.1f} (smallest)")
    return [prompts[0].graph, prompts[1].graph]


def _total(steps: Iterable[Step], way: str, kind: str) -> int:
    return sum(getattr(getattr(one, way), kind) for one in steps)


# -- tuning ---------------------------------------------------------------------------------------------------------


def _tuning(model: Any, report: Report, arguments: argparse.Namespace) -> None:
    generator, tokens = torch.Generator().manual_seed(0), LENGTHS[0]
    rounds = 2 if arguments.quick else 3

    def tune(name: str, tuned: list[torch.nn.Parameter], call: Any, session: Session) -> list[Step]:
        found = []
        for number in range(rounds):
            step(tuned, generator)
            found.append(session.want(f"{name}, step {number + 1}", wanted(model, call)))
        return found

    plain = prefill(model, tokens)
    session = Session()
    session.want("first prompt", wanted(model, plain))
    last = tune("last layer", list(model.model.layers[-1].parameters()), plain, session)
    everything = tune("everything", list(model.parameters()), plain, session)
    tuned = adapt(model)
    adapted = prefill(model, tokens)
    put_in = session.want("adapters put in", wanted(model, adapted))
    adapters = tune("adapters", tuned, adapted, session)
    _print(session.steps, report, "tuning")

    def times(steps: Sequence[Step], way: str) -> float:
        whole, sent = (_total(steps, one, "graph") + _total(steps, one, "weights") for one in (way, "sent"))
        return whole / sent

    report.bar("adapters: full form and changed layers / sent", times([put_in, *adapters], "whole"), TUNING_BAR, ">=")
    report.bar("last layer: full form and all weights / sent", times(last, "everything"), TUNING_BAR, ">=")
    report.fact("last layer: full form and changed layers / sent", times(last, "whole"))
    report.bar("everything: sent / full form and all weights", 1 / times(everything, "everything"), ALL_BAR)
    print(f"last layer: full form and that layer / sent {times(last, 'whole'):.3f}: the layer is what changed")
    print("everything: where all weights change the protocol saves nothing of them")


# -- what it costs --------------------------------------------------------------------------------------------------


def _break_even(report: Report, graphs: list[GraphForm], runs: int) -> None:
    """How fast a link must be for the full form to be there sooner, and for digesting to be slower than sending."""
    old, new = (one.content for one in graphs)
    most = 2**30

    def in_full() -> bytes:
        """Both sides of it: text and digest of the new graph here; read, checked and digested there."""
        made = GraphForm(new)
        text = made.text.encode()
        assert checked(json.loads(text)).digest == made.digest
        return text

    def as_edits() -> bytes:
        """The same for edits; both sides hold the old graph."""
        made = GraphForm(new)
        text = written(difference(graphs[0], made), "edits")
        assert applied(graphs[0], json.loads(text), most).digest == made.digest
        return text

    assert GraphForm(old).digest == graphs[0].digest
    saved = len(in_full()) - len(as_edits())
    data = bytes(2**26)
    both = [(_seconds(in_full), _seconds(as_edits)) for _ in range(runs)]
    rates = [len(data) / _seconds(lambda: hashlib.sha256(data).digest()) for _ in range(runs)]
    full = report.measured("full form: made, read and digested", [one for one, _ in both], "s")
    delta = report.measured("edits: made, applied and digested", [one for _, one in both], "s")
    digests = report.measured("digests of weights", rates, "B/s")
    faster = saved / (delta - full) if delta > full else float("inf")
    report.fact("the full form is there sooner on links faster than, B/s", faster if delta > full else None)
    print(
        f"\nedits take {delta * 1e3:.1f} ms, a full form {full * 1e3:.1f} ms, both sides together: on links "
        f"faster than {faster / 1e6:.0f} MB/s the full form is there sooner.\n"
        f"Digests take {digests / 1e9:.2f} GB/s: it is quicker on faster links to send weights "
        "than to find out by digests whether they changed"
    )


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _print(steps: Sequence[Step], report: Report, name: str) -> None:
    rows = []
    for one in steps:
        sent, whole = one.sent, one.whole
        graph, deflated = whole.graph / sent.graph, whole.deflated / sent.deflated
        rows.append(
            [
                one.name, sent.graph, whole.graph, f"{graph:.1f}", f"{deflated:.1f}", sent.weights, whole.weights,
                one.everything.weights,
            ]
        )  # fmt: skip
    heads = ["step", "graph", "full form", "times", "deflated", "weights", "changed layers", "all weights"]
    print("\n" + table(heads, rows), flush=True)
    report.fact(name, [asdict(one) for one in steps])


if __name__ == "__main__":
    sys.exit(main())
