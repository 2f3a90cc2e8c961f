"""Calls from several threads while graphs are traced, planned and built: nothing is raised, every answer is eager's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.convert_frame import compile_lock
from torch.fx import Tracer
from torch.fx._symbolic_trace import is_fx_tracing

import djinn_fx
from djinn_fx.backend import compilations
from djinn_fx.compiling.entry.session import compile_session
from djinn_fx.srg.record import GraphKind
from tests.backend.hammering import MODES, many_models, model, one_model, training
from tests.backend.support import Options, several_trace

THREADS = 8


@pytest.fixture(autouse=True)
def _one_thread_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def untidy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of threads that traced without Dynamo's lock: none may."""
    found: list[str] = []
    trace = Tracer.trace

    def watched(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        if not compile_lock._is_owned():  # type: ignore[attr-defined]
            found.append(threading.current_thread().name)
        return trace(self, *args, **kwargs)

    monkeypatch.setattr(Tracer, "trace", watched)
    return found


@several_trace
@pytest.mark.parametrize("mode", ["background", "lazy"])
def test_one_model(mode: str, untidy: list[str]) -> None:
    assert one_model(MODES[mode], threads=THREADS, seconds=0.3) == []
    assert untidy == []


@several_trace
@pytest.mark.parametrize("mode", ["packed"])
def test_many_models_with_graph_breaks(mode: str, untidy: list[str]) -> None:
    assert many_models(MODES[mode], threads=THREADS, seconds=0.3) == []
    assert untidy == []


@several_trace
@pytest.mark.parametrize("mode", ["background"])
def test_training(mode: str, untidy: list[str]) -> None:
    assert training(MODES[mode], threads=THREADS, seconds=0.3) == []
    assert untidy == []


@several_trace
@pytest.mark.exam
@pytest.mark.parametrize("kind", [one_model, many_models, training])
@pytest.mark.parametrize("mode", MODES)
def test_half_a_minute(mode: str, kind: Callable[..., list[str]], untidy: list[str]) -> None:
    options: Options = {**MODES[mode], "cache_limit": "0"}
    assert kind(options, threads=THREADS, seconds=30.0) == []
    assert untidy == []


def test_a_call_beside_one_that_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread is held in the middle of a trace, with all that FX sets for the process; another one calls."""
    plain = model()
    compiled = torch.compile(plain, backend="djinn", options=MODES["packed"])
    x, inside, go_on = torch.randn(4, 32), threading.Event(), threading.Event()
    create = Tracer.create_args_for_root

    def held(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        assert is_fx_tracing()
        inside.set()
        assert go_on.wait(60)
        return create(self, *args, **kwargs)

    with torch.no_grad():
        expected, first = plain(x), compiled(x)
        monkeypatch.setattr(Tracer, "create_args_for_root", held)
        planning = threading.Thread(target=djinn_fx.wait_until_ready, args=(compiled, 60))
        planning.start()
        try:
            assert inside.wait(60)
            torch.testing.assert_close(compiled(x), expected)
            assert djinn_fx.status(compiled).unplanned == 1
        finally:
            go_on.set()
            planning.join()
    torch.testing.assert_close(first, expected)
    assert djinn_fx.status(compiled).unplanned == 0


def test_a_session_leaves_nothing_behind() -> None:
    assert not torch.compiler.is_compiling()
    with compile_session(), compile_session():
        assert torch.compiler.is_compiling()
    assert not torch.compiler.is_compiling()
    with pytest.raises(ZeroDivisionError), compile_session():
        raise ZeroDivisionError
    assert not torch.compiler.is_compiling()


def test_a_backward_graph_is_made_under_the_lock(untidy: list[str]) -> None:
    """It comes on the first backward pass, out of any frame of Dynamo's."""
    compiled = torch.compile(model().train(), backend="djinn", options={"compile": "background"})
    compiled(torch.randn(4, 32))
    loss = compiled(torch.randn(4, 32)).sum()
    backward = threading.Thread(target=loss.backward, name="backward")
    backward.start()
    backward.join()
    assert untidy == []
    assert compilations()[-1].srg.kind is GraphKind.BACKWARD
