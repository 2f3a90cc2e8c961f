"""Over CUDA devices of notes: the graph's answers, in an order of streams in which nothing is read before its time."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import DeviceLostError, EngineError
from djinn_fx.runtime.devices.pipeline import pipeline
from djinn_fx.srg import SRG, lower
from tests import graphs
from tests.programs import DETERMINISTIC, PROGRAMS, arguments_of, behaviour, build
from tests.programs import Program as RandomProgram
from tests.runtime.devices.cuda.spreading import spread
from tests.runtime.devices.cuda.standing import Notes, Stream, Watching

#: All can read each other's memory, or none can.
WAYS = st.sampled_from([frozenset[tuple[int, int]](), frozenset((a, b) for a in range(3) for b in range(3))])
DEVICES = st.lists(st.integers(0, 2), min_size=1, max_size=7)


@DETERMINISTIC
@given(PROGRAMS, DEVICES, WAYS)
def test_random_programs_compute_what_the_graph_does(drawn: RandomProgram, devices: list[int], apart: Any) -> None:
    gm = build(drawn)
    run = spread(lower(gm), devices, Notes(3, apart))

    def called(*args: Any) -> Any:
        made = gm(*args)
        return [made] if isinstance(made, torch.Tensor) else list(made)

    found = behaviour(lambda *args: run(list(args)), arguments_of(drawn.transposed))
    assert found == behaviour(called, arguments_of(drawn.transposed))


@DETERMINISTIC
@given(PROGRAMS, DEVICES, WAYS)
def test_random_programs_read_nothing_too_early(drawn: RandomProgram, devices: list[int], apart: Any) -> None:
    notes = Notes(3, apart)
    run, args = spread(lower(build(drawn)), devices, notes), arguments_of(drawn.transposed)
    with Watching(notes, []) as watching:
        args = [one.clone() for one in args]  # the caller's stream makes them, and nobody else holds them
        try:
            results = run(args)
        except (RuntimeError, IndexError):  # as in behaviour()
            return
        for one in results:
            one.clone()  # the caller's stream reads
    assert watching.faults == []
    assert watching.unkept() == []


def chain() -> SRG:
    """Four ops, three of which read the weight."""
    return graphs.lowered(graphs.trace(lambda x, w: ((x @ w).sin() @ w) * w, torch.empty(16, 16), torch.empty(16, 16)))


def watched(notes: Notes, devices: list[int] = [0, 1, 1, 0]) -> Watching:  # noqa: B006
    weight = torch.randn(16, 16)
    run = spread(chain(), devices, notes)
    with Watching(notes, [weight]) as watching:
        for _ in range(2):
            (result,) = run([torch.ones(16, 16), weight])
            result.clone()
    return watching


@pytest.mark.parametrize("apart", [frozenset(), frozenset({(0, 1)})])
def test_without_its_waits_a_graph_would_read_too_early(apart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = watched(Notes(2, apart))
    assert (whole.faults, whole.unkept()) == ([], [])
    monkeypatch.setattr(Stream, "wait_event", lambda stream, event: None)
    faults = " ".join(watched(Notes(2, apart)).faults)
    for stream in ("compute1 before", "compute0 before", "caller before", "copy0 before"):
        assert stream in faults


def test_what_is_not_kept_for_a_stream_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notes, "keep", lambda notes, value, stream: None)
    found = set(watched(Notes()).unkept())
    assert {"memory of compute0 used on copy0", "memory of copy1 used on compute1"} <= found


def test_what_passes_waits_for_its_maker_is_copied_and_is_waited_for() -> None:
    notes = Notes()
    run = spread(graphs.lowered(graphs.trace(lambda x: x.sin().cos(), torch.empty(3))), [0, 1], notes)
    run([torch.zeros(3)])
    kinds = [(what, where) for what, where, _ in notes.log if what != "use"]
    assert kinds == [
        ("record", "caller"),
        ("wait", "compute0"), ("record", "compute0"),
        ("wait", "copy0"), ("wait", "copy0"), ("record", "copy1"),
        *[("wait", "compute1")] * 3, ("record", "compute1"),
        ("wait", "copy1"), ("wait", "copy1"), ("record", "copy0"),
        ("wait", "compute0"), ("wait", "compute0"), ("record", "compute0"),
        ("wait", "caller"),
    ]  # fmt: skip


def test_each_device_has_a_thread_that_is_on_it() -> None:
    notes = Notes()
    names: list[str] = []

    def noting(args: list[Any]) -> list[Any]:
        names.append(threading.current_thread().name)
        return [args[0] + 1]

    run = spread(chain(), [0, 1, 1, 0], notes, [noting] * 4)
    (found,) = run([torch.zeros(16, 16), torch.zeros(16, 16)])
    assert torch.equal(found, torch.full((16, 16), 4.0))
    assert names == ["djinn cuda:0", "djinn cuda:1", "djinn cuda:1", "djinn cuda:0"]
    assert {one for one in notes.log if one[0] == "use"} == {("use", "djinn cuda:0", 0), ("use", "djinn cuda:1", 1)}


def failing(error: BaseException) -> Any:
    def run(args: list[Any]) -> list[Any]:
        raise error

    return run


def passing(args: list[Any]) -> list[Any]:
    return [args[0] + 1]


def test_an_error_says_where_and_the_caller_s_stream_waits_for_what_was_begun() -> None:
    notes = Notes()
    run = spread(chain(), [0, 1, 1, 0], notes, [passing, failing(ValueError("too hot")), passing, passing])
    with pytest.raises(ValueError, match="too hot") as caught:
        run([torch.zeros(16, 16), torch.zeros(16, 16)])
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == ["in region '1' on cuda:1"]
    assert notes.log[-1][:2] == ("wait", "caller")


def test_a_lost_device_is_one_error_and_its_thread_knows() -> None:
    notes = Notes()
    notes.lost = (RuntimeError,)
    run = spread(chain(), [0, 1, 1, 0], notes, [passing, failing(RuntimeError("ECC")), passing, passing])
    with pytest.raises(DeviceLostError, match="ECC"):
        run([torch.zeros(16, 16), torch.zeros(16, 16)])
    lost = {name: one.thread.lost for name, one in run.places.devices.items()}
    assert lost == {"cuda:0": False, "cuda:1": True}


def test_it_is_not_captured_into_a_cuda_graph() -> None:
    notes = Notes()
    run = spread(chain(), [0, 1], notes)
    notes.capturing = True
    with pytest.raises(EngineError, match="CUDA graph"):
        run([torch.zeros(16, 16), torch.zeros(16, 16)])


def test_batches_of_a_pipeline_are_on_streams_of_their_own_and_the_caller_waits_for_results() -> None:
    notes = Notes()
    run, weight = spread(chain(), [0, 1, 1, 0], notes), torch.randn(16, 16)
    batches = [(torch.full((16, 16), float(number)),) for number in range(12)]
    found = list(pipeline(lambda x: run([x, weight])[0], batches))
    for (x,), one in zip(batches, found, strict=True):
        torch.testing.assert_close(one, ((x @ weight).sin() @ weight) * weight)
    by = [("record" if what == "record" else "wait", name) for what, name, _ in notes.log if name != "caller"]
    streams = {name for _, name in by if name.startswith("stream")}
    assert len(streams) == len(batches) - 1, "the first one is the caller's own"
    for name in streams:  # for its batch, then for the results; told when it began and when it is over
        assert [what for what, where in by if where == name] == ["wait", "record", "wait", "record"]
    assert sum(what == "wait" and name == "caller" for what, name, _ in notes.log) == len(batches)


def test_a_pipeline_of_what_is_spread_over_nothing_makes_no_streams() -> None:
    notes = Notes()
    run = spread(chain(), [0, 1], notes)
    run([torch.zeros(16, 16), torch.zeros(16, 16)])
    made = dict(notes.made)
    assert list(pipeline(lambda x: x + 1, [(number,) for number in range(6)])) == list(range(1, 7))
    assert notes.made == made
