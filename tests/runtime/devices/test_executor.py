"""Running over devices: the same answers to the bit, the caller's modes, errors that say where, nothing left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from djinn_fx.runtime.devices.executor import Spread
from djinn_fx.runtime.devices.thread import thread_of
from djinn_fx.settings.devices import DeclaredLink
from djinn_fx.srg import SRG, lower
from tests import graphs
from tests.forking import in_fork
from tests.programs import DETERMINISTIC, PROGRAMS, arguments_of, behaviour, build
from tests.programs import Program as RandomProgram
from tests.runtime.devices.two import DEVICES, needs_two, one_thread, spread
from tests.waiting import LONG, until

pytestmark = needs_two

FAST = DeclaredLink(ends=("cpu:0", "cpu:1"), bandwidth_bytes_s=1e12, latency_s=0.0)


def chain() -> SRG:
    """Four regions of one op each."""
    return graphs.lowered(
        graphs.trace(lambda x, w: ((x @ w).sin() @ w).exp(), torch.empty(16, 16), torch.empty(16, 16))
    )


def device_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("djinn cpu:")]


@DETERMINISTIC
@given(PROGRAMS, st.lists(st.integers(0, 1), min_size=1, max_size=7), st.booleans())
def test_random_programs_compute_what_the_graph_does(
    drawn: RandomProgram, devices: list[int], over_links: bool
) -> None:
    gm = build(drawn)
    srg = lower(gm)
    run = spread(srg, [number for number, _ in enumerate(srg.ops)], devices, [FAST] if over_links else ())
    found = behaviour(lambda *args: run(list(args)), arguments_of(drawn.transposed))
    assert found == behaviour(lambda *args: one_thread(gm, *args), arguments_of(drawn.transposed))


def test_equal_to_one_thread_to_the_bit_and_the_list_is_emptied() -> None:
    gm = graphs.trace(lambda x, w: torch.softmax((x @ w).sin() @ w, -1).sum(0), *(torch.empty(257, 257),) * 2)
    args = [torch.randn(257, 257), torch.randn(257, 257)]
    run = spread(graphs.lowered(gm), [0, 1, 2, 3, 4], [0, 1])
    given_args = list(args)
    assert all(map(torch.equal, run(given_args), one_thread(gm, *args)))
    assert given_args == []


def regions(*runs: Any) -> Spread:
    return spread(chain(), [0, 1, 2, 3], [0, 1], callables=runs)


def passing(args: list[Any]) -> list[Any]:
    return [args[0] + 1]


def test_a_region_s_error_comes_to_the_caller_and_says_where() -> None:
    def failing(args: list[Any]) -> list[Any]:
        raise ValueError("too hot")

    run = regions(passing, passing, failing, passing)
    for _ in range(2):
        with pytest.raises(ValueError, match="too hot") as caught:
            run([torch.zeros(16, 16), torch.zeros(16, 16)])
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == ["in region '2' on cpu:0"]
    assert not torch.equal(regions(*[passing] * 4)([torch.zeros(2, 2), torch.zeros(2, 2)])[0], torch.zeros(2, 2))


def test_calls_of_several_threads_at_once_do_not_meet() -> None:
    run = regions(passing, passing, passing, passing)
    wrong: list[int] = []

    def caller(number: int) -> None:
        for _ in range(50):
            (found,) = run([torch.full((2, 2), float(number)), torch.zeros(2, 2)])
            if not torch.equal(found, torch.full((2, 2), number + 4.0)):
                wrong.append(number)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(LONG)
    assert wrong == []
    assert not any(one.is_alive() for one in callers)


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad],
)
def test_the_caller_s_modes_hold_on_the_devices_and_not_afterwards(mode: Any) -> None:
    def told() -> tuple[Any, ...]:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        tracked = (torch.ones(1, requires_grad=True) * 2).requires_grad
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            product.dtype,
            product.is_inference(),
            tracked,
        )

    seen: list[Any] = []

    def looking(args: list[Any]) -> list[Any]:
        seen.append((threading.current_thread().name, told()))
        return passing(args)

    run = regions(looking, looking, looking, looking)
    with mode():
        run([torch.zeros(2, 2), torch.zeros(2, 2)])
        wanted = told()
    assert seen == [(f"djinn cpu:{place % 2}", wanted) for place in range(4)]
    seen.clear()
    run([torch.zeros(2, 2), torch.zeros(2, 2)])
    assert {modes for _, modes in seen} == {told()}


def test_a_python_mode_sees_the_ops_which_then_stay_in_the_caller_s_thread() -> None:
    seen: list[tuple[Any, threading.Thread]] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append((func, threading.current_thread()))
            return func(*args, **(kwargs or {}))

    run = regions(*[passing] * 4)
    with Counting():
        run([torch.zeros(2, 2), torch.zeros(2, 2)])
    assert [op for op, _ in seen].count(torch.ops.aten.add.Tensor) == 4
    assert {thread for _, thread in seen} == {threading.current_thread()}


def test_a_region_that_calls_a_compiled_graph_does_not_wait_for_itself() -> None:
    inner = regions(*[passing] * 4)
    run = regions(passing, lambda args: inner([args[0], args[0]]), passing, passing)
    (found,) = run([torch.zeros(2, 2), torch.zeros(2, 2)])
    assert torch.equal(found, torch.full((2, 2), 7.0))


def test_values_are_let_go_and_threads_end_with_the_last_graph_that_uses_them() -> None:
    gc.collect()
    assert until(lambda: device_threads() == [])
    run, other = regions(*[passing] * 4), regions(*[passing] * 4)
    for one in (run, other):
        one([torch.zeros(2, 2), torch.zeros(2, 2)])
    assert sorted(device_threads()) == ["djinn cpu:0", "djinn cpu:1"]
    del run, one
    gc.collect()
    assert sorted(device_threads()) == ["djinn cpu:0", "djinn cpu:1"]
    del other
    gc.collect()
    assert until(lambda: device_threads() == [])


def test_branches_run_at_once() -> None:
    met = threading.Barrier(2)

    def meeting(args: list[Any]) -> list[Any]:
        met.wait(LONG)  # passed only if the other branch runs meanwhile
        return [args[0] + 1]

    def model(x: Tensor, w: Tensor) -> Tensor:
        return x.sin() + w.cos()

    srg = graphs.lowered(graphs.trace(model, torch.empty(2), torch.empty(2)))
    run = spread(srg, [0, 1, 2], [0, 1], callables=[meeting, meeting, lambda args: [args[0] + args[1]]])
    (found,) = run([torch.zeros(2), torch.ones(2)])
    assert torch.equal(found, torch.full((2,), 3.0))


def test_a_forked_process_has_threads_of_its_own() -> None:
    run = regions(*[passing] * 4)
    run([torch.zeros(2, 2), torch.zeros(2, 2)])
    assert in_fork(lambda: bool(torch.equal(run([torch.zeros(2, 2)] * 2)[0], torch.full((2, 2), 4.0))))
    assert torch.equal(run([torch.zeros(2, 2)] * 2)[0], torch.full((2, 2), 4.0))


def test_a_program_that_ends_meanwhile_ends_as_it_would() -> None:
    program = """
import threading, time, sys
from tests.runtime.devices.test_executor import passing, regions
import torch
under_way = threading.Event()
def slow(args):
    under_way.set()
    time.sleep(0.3)
    return passing(args)
run = regions(slow, slow, slow, slow)
run([torch.zeros(2, 2)] * 2)
under_way.clear()
args = [torch.zeros(2, 2)] * 2
threading.Thread(target=lambda: run(args), daemon=True).start()
under_way.wait()
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_declared_link_copies_what_passes_and_is_as_slow_as_it_says() -> None:
    kept: list[Tensor] = []

    def keeping(args: list[Any]) -> list[Any]:
        kept.append(args[0])
        return [args[0]]

    link = DeclaredLink(ends=("cpu:0", "cpu:1"), bandwidth_bytes_s=1e6, latency_s=0.02)
    for links, copied in (([], False), ([link], True)):
        kept.clear()
        run = spread(chain(), [0, 1, 2, 3], [0, 0, 1, 1], links, [passing, keeping, keeping, passing])
        begun = time.perf_counter()
        (found,) = run([torch.zeros(16, 16), torch.zeros(16, 16)])
        seconds = time.perf_counter() - begun
        assert torch.equal(found, torch.full((16, 16), 2.0))
        assert (kept[0].data_ptr() != kept[1].data_ptr()) is copied
        assert not copied or seconds >= 0.02 + 16 * 16 * 4 / 1e6


@pytest.mark.parametrize("part", [lambda x: x[:, :3], lambda x: x[:, :1].expand(4, 3)], ids=["slice", "expanded"])
def test_what_passes_over_a_link_keeps_its_strides(part: Callable[[Tensor], Tensor]) -> None:
    """A region is built for the strides that were traced: of a slice, or of a row that stands for many."""
    kept: list[Tensor] = []

    def keeping(args: list[Any]) -> list[Any]:
        kept.append(args[0])
        return [args[0].exp()]

    x = torch.arange(24.0).view(4, 6) / 24
    srg = graphs.lowered(graphs.trace(lambda x: part(x.sin()).exp(), x))
    labels = [0] * (len(list(srg.ops)) - 1) + [1]
    run = spread(srg, labels, [0, 1], [FAST], [lambda args: [part(args[0].sin())], keeping])
    (found,) = run([x])
    assert torch.equal(found, part(x.sin()).exp())
    assert kept[0].stride() == part(x).stride()


def test_a_device_has_one_thread_however_many_graphs_use_it() -> None:
    first, second = thread_of(DEVICES[0]), thread_of(DEVICES[0])
    assert first is second
    assert first is not thread_of(DEVICES[1])


def test_a_job_that_raises_does_not_end_its_thread() -> None:
    thread, done = thread_of(DEVICES[0]), threading.Event()
    assert thread.submit(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert thread.submit(done.set)
    assert done.wait(LONG)
