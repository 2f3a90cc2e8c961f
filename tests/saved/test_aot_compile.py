"""Functions compiled ahead of time: saved, loaded in a new process without tracing, refused where they do not fit."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.aot_compile import AOTCompiledFunction

from djinn_fx import backend
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.engines.registry import engine as engine_of
from djinn_fx.errors import DjinnError, EngineError, StoreError
from djinn_fx.saved import carried
from djinn_fx.saved import file as serialise
from djinn_fx.saved.file import SavedGraph
from djinn_fx.saved.form import restore
from djinn_fx.saved.guards import saveable_guards
from djinn_fx.settings.table import Settings
from tests.sweeps import some_of

SIDE = 8


class Layers(nn.Module):
    """Identical layers, so that one artefact serves many regions."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(SIDE, SIDE), nn.GELU(), nn.LayerNorm(SIDE)) for _ in range(count)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


class Cache(nn.Module):
    """Writes into a buffer, as a key-value cache does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE, SIDE)
        self.register_buffer("kept", torch.zeros(4, SIDE))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        self.kept.index_copy_(0, places, self.linear(x))
        return self.kept.sum(0)


class Constants(nn.Module):
    """Holds tensors that are no inputs, and returns some as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(6.0).reshape(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wide = torch.tensor([[1.0, 2.0, 3.0]]).expand(2, 3)
        return x * self.table + wide, torch.tensor(True), torch.tensor([]), torch.tensor(1.5, dtype=torch.bfloat16)


class Sizes(nn.Module):
    """Reckons with sizes, and returns one."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x.reshape(x.shape[0] * x.shape[1] // 2, 2).relu(), x.shape[0] * 3


class Dropout(nn.Module):
    """Draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x * 2, 0.5, training=True)


class Found(nn.Module):
    """A size that is only known at run time."""

    def forward(self, x: Tensor) -> Tensor:
        return torch._dynamo.is_compiling() * 0 + (x > 0).sum() + x.max(0).values.argmax()


def ahead(model: nn.Module, *args: Any, dynamic: bool | None = None, **options: Any) -> AOTCompiledFunction:
    """The model's forward, compiled ahead of time."""
    options.setdefault("engine", "eager")
    compiled: Any = torch.compile(model, backend="djinn", fullgraph=True, dynamic=dynamic, options=options)
    return compiled.forward.aot_compile((args, {}))  # type: ignore[no-any-return]


def saved(function: AOTCompiledFunction) -> bytes:
    """Its file's contents."""
    return bytes(AOTCompiledFunction.serialize(function).serialized_data)


def load(data: bytes) -> AOTCompiledFunction:
    """As in a process that has loaded nothing yet."""
    backend.reset()
    return torch.compiler.load_compiled_function(io.BytesIO(data))  # type: ignore[return-value]


def graph_of(function: AOTCompiledFunction) -> SavedGraph:
    """The part of it that is ours."""
    graph = function._artifacts.compiled_fn
    assert isinstance(graph, SavedGraph)
    return graph


def assert_same(function: Any, model: nn.Module, *args: Any) -> None:
    """The function gives what the model gives, and changes what it changes."""
    twin, given = copy.deepcopy(model), copy.deepcopy(args)
    torch.manual_seed(5)
    want = twin(*given)
    torch.manual_seed(5)
    torch.testing.assert_close(function(model, *args), want)
    for mine, its in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Layers(), (torch.randn(5, SIDE),)),
        (Cache(), (torch.randn(2, SIDE), torch.tensor([0, 2]))),
        (Constants(), (torch.randn(2, 3),)),
        (Dropout(), (torch.randn(4, SIDE),)),
        (Found(), (torch.randn(4, SIDE),)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@torch.no_grad()
def test_regions_run_as_their_own_ops_after_loading(model: nn.Module, args: tuple[Any, ...]) -> None:
    function = ahead(model, *args)
    assert_same(function, model, *args)
    loaded = load(saved(function))
    assert_same(loaded, model, *args)
    assert graph_of(loaded)._carried.keys() == ()


@torch.no_grad()
def test_sizes_may_differ_from_call_to_call() -> None:
    loaded = load(saved(ahead(Sizes(), torch.randn(4, 6), dynamic=True)))
    for shape in ((4, 6), (10, 4), (3, 8)):
        assert_same(loaded, Sizes(), torch.randn(shape))


def test_gradients_come_through_a_loaded_function() -> None:
    model, x = Layers(), torch.randn(5, SIDE)
    twin = copy.deepcopy(model)
    load(saved(ahead(model, x)))(model, x).sum().backward()
    twin(x).sum().backward()
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


@torch.no_grad()
def test_a_loaded_function_can_be_saved_again() -> None:
    model, x = Layers(), torch.randn(5, SIDE)
    again = load(saved(load(saved(ahead(model, x)))))
    assert_same(again, model, x)


_CHILD = """
import sys, torch, tests.saved.test_aot_compile as t
from torch._dynamo.utils import counters
import torch._dynamo.convert_frame, torch._dynamo.symbolic_convert, torch._functorch.aot_autograd
def never(*args, **kwargs): raise AssertionError("something was traced or compiled")
torch._dynamo.convert_frame.fullgraph_capture = never
torch._dynamo.symbolic_convert.InstructionTranslator.run = never
torch._functorch.aot_autograd.create_aot_state = never
import torch._inductor.compile_fx
torch._inductor.compile_fx.compile_fx_inner = never
state = torch.load(sys.argv[2])
model = t.Layers(); model.load_state_dict(state["model"])
with torch.no_grad(), open(sys.argv[1], "rb") as file:
    result = torch.compiler.load_compiled_function(file)(model, state["x"])
torch.testing.assert_close(result, state["want"])
print("traced", counters["stats"].get("unique_graphs", 0), "aot", counters["aot_autograd"].get("total", 0))
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inductor", "eager"])
def test_a_new_process_with_empty_caches_loads_and_runs_without_tracing(
    engine: str, tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "first"))
    model, x = Layers(), torch.randn(5, SIDE)
    with torch.no_grad():
        function = ahead(model, x, engine=engine)
        function.save_compiled_function(str(tmp_path / "function"))
        keys = graph_of(function)._carried.keys()
        state = {"model": model.state_dict(), "x": x, "want": model(x)}
    assert (len(keys) > 0) == (engine == "inductor")
    torch.save(state, tmp_path / "state")
    environ = {"DJINN_CACHE_DIR": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "second")}
    arguments = [sys.executable, "-c", _CHILD, str(tmp_path / "function"), str(tmp_path / "state")]
    done = subprocess.run(arguments, cwd=repo, env={**os.environ, **environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("traced 0 aot 0")
    assert not (tmp_path / "none").exists()


# Engines that bind weights


def _contests() -> list[Contest]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is Contest]


@pytest.mark.parametrize("engine", some_of(["openvino", "onnxruntime", "packed"]))
@torch.no_grad()
def test_an_engine_that_binds_weights_is_carried_and_checked_anew(engine: str) -> None:
    if not engine_of(engine, Settings()).capability().can_run:
        pytest.skip(f"{engine} is not installed")
    model, x = Layers(), torch.randn(5, SIDE)
    data = saved(ahead(model, x, engine=engine))
    before = _contests()
    loaded = load(data)
    assert len(graph_of(loaded)._carried.keys()) == 1
    for _ in range(2):
        assert_same(loaded, model, x)
    assert [one.engine for one in _contests() if one not in before] == [engine]
    for parameter in model.parameters():
        parameter.data.add_(0.5)  # the session's copies are now wrong
    assert_same(loaded, model, x)
    assert_same(loaded, Layers(), x)


def instead_of_starting(monkeypatch: pytest.MonkeyPatch, done: Callable[[threading.Thread], Any]) -> None:
    """Have this done with threads that are to be started.

    Not with those that give back memory of earlier tests, nor with those that another one waits for.
    """
    start, as_ever = threading.Thread.start, ("djinn gives back", "djinn tries")
    monkeypatch.setattr(threading.Thread, "start", lambda one: (start if one.name.startswith(as_ever) else done)(one))


@torch.no_grad()
def test_auto_answers_with_the_regions_own_ops_until_an_engine_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Layers(), torch.randn(5, SIDE)
    data = saved(ahead(model, x, engine="auto"))
    started: list[Any] = []
    instead_of_starting(monkeypatch, started.append)
    loaded = load(data)
    assert_same(loaded, model, x)
    assert [thread.name for thread in started] == ["djinn loads engines"]  # and the call did not wait
    started[0].run()
    assert_same(loaded, model, x)
    assert len(started) > 1  # sessions are being opened
    for thread in started[1:]:
        thread.run()
    assert_same(loaded, model, x)


@torch.no_grad()
def test_an_engine_that_fails_here_leaves_the_graph_on_its_own_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Layers(), torch.randn(5, SIDE)
    data = saved(ahead(model, x, engine="auto"))

    def fails(*args: Any) -> Any:
        raise EngineError("it is broken here")

    instead_of_starting(monkeypatch, threading.Thread.run)
    monkeypatch.setattr("djinn_fx.saved.form.contest_of", fails)
    loaded = load(data)
    for _ in range(3):
        assert_same(loaded, model, x)


# What does not fit is refused, in words


def graph_bytes() -> bytes:
    """Our part of a small saved function."""
    with torch.no_grad():
        return SavedGraph.serialize_compile_artifacts(graph_of(ahead(Layers(1), torch.randn(2, SIDE))))


@pytest.mark.parametrize("fact", ["torch", "djinn-fx", "Python", "the machine"])
def test_another_version_or_machine_is_refused(fact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = graph_bytes()
    here = serialise._here()
    monkeypatch.setattr(serialise, "_here", lambda: {**here, fact: "another"})
    with pytest.raises(EngineError, match=re.escape(f"{fact} was {here[fact]}, is another")):
        SavedGraph.deserialize_compile_artifacts(data)


def test_another_processor_is_refused_where_machine_code_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    made_by = {**serialise._here(), "settings": {"engine": "inductor"}}
    cpu = torch.backends.cpu.get_cpu_capability()
    fingerprint = {"engine": "inductor", "torch": str(torch.__version__), "cpu": cpu}
    serialise._check({**made_by, "engines": {"inductor": fingerprint}})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    serialise._check({**made_by, "engines": {}})
    with pytest.raises(EngineError, match=f"cpu was {cpu}, is DEFAULT"):
        serialise._check({**made_by, "engines": {"inductor": fingerprint}})


def test_a_device_that_is_not_here_is_refused() -> None:
    data = graph_bytes()
    device = "cuda:7"
    made_by = {**carried.made_by_of(data), "devices": ["cpu", device]}
    with pytest.raises(EngineError, match=device):
        serialise._check(made_by)


@pytest.mark.parametrize("cut", [0, 10, 60, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(cut: float) -> None:
    data = graph_bytes()
    short = data[: int(len(data) * cut) if isinstance(cut, float) else cut]
    with pytest.raises(StoreError):
        SavedGraph.deserialize_compile_artifacts(short)


@torch.no_grad()
def test_a_whole_file_that_is_cut_short_never_loads() -> None:
    data = saved(ahead(Layers(1), torch.randn(2, SIDE)))
    for share in (0.0, 0.01, 0.3, 0.6, 0.9, 0.999):
        with pytest.raises((EOFError, pickle.UnpicklingError, DjinnError)):
            load(data[: int(len(data) * share)])


@torch.no_grad()
def test_guards_that_come_down_to_identity_are_left_out_on_request() -> None:
    class Typed(Layers):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.layers[0].__class__ is nn.Sequential else x

    model, x = Typed(1), torch.randn(2, SIDE)
    function = ahead(model, x, guard_filter_fn=saveable_guards)
    assert_same(function, model, x)
    with pytest.raises(RuntimeError, match="size mismatch"):
        function(model, x[:1])


def test_a_flipped_bit_is_found_wherever_it_is() -> None:
    data = bytearray(graph_bytes())
    for place in range(0, len(data), len(data) // 40):
        data[place] ^= 4
        with pytest.raises(StoreError):
            SavedGraph.deserialize_compile_artifacts(bytes(data))
        data[place] ^= 4
    assert SavedGraph.deserialize_compile_artifacts(bytes(data)) is not None


@torch.no_grad()
def test_weights_are_the_models_and_guarded() -> None:
    model, x = Layers(), torch.randn(5, SIDE)
    loaded = load(saved(ahead(model, x)))
    for parameter in model.parameters():
        parameter.data.mul_(1.5)  # changes neither identity nor version
    assert_same(loaded, model, x)
    assert_same(loaded, Layers(), x)  # other weights of the same shapes
    other, double = Layers(), Layers().double()
    other.layers[1][0] = nn.Linear(SIDE, SIDE, bias=False)
    for changed, given in ((other, x), (Layers(4), x), (double, x.double()), (model, x[:3]), (model, x.double())):
        with pytest.raises(RuntimeError, match="GuardManager check failed"):
            loaded(changed, given)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="grad_mode"):
        loaded(model, x)


# What cannot be written down


@torch.no_grad()
def test_a_region_that_cannot_be_written_down_is_refused_when_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from djinn_fx.saved import form as module

    monkeypatch.setattr(module, "first_loss", lambda original, copy: "an op is another")
    with pytest.raises(DjinnError, match="an op is another"):
        ahead(Layers(1), torch.randn(2, SIDE))


@torch.no_grad()
def test_without_a_cache_the_artefacts_are_carried_all_the_same(tmp_path: Path) -> None:
    model, x = Layers(), torch.randn(5, SIDE)
    function = ahead(model, x, engine="eager", cache_limit="0", cache_dir=str(tmp_path / "unused"))
    assert_same(load(saved(function)), model, x)
    assert not (tmp_path / "unused").exists()


def test_a_kept_graph_whose_artefact_left_the_cache_is_compiled_anew(tmp_path: Path) -> None:
    class Compiler:
        """Finds a kept graph under the first tag, as torch would."""

        tags: ClassVar[list[str]] = []
        ahead = None

        def __init__(self, settings: Settings, ahead: Any) -> None:
            pass

        def tag(self) -> str:
            return "here"

        def through_aot(self, gm: Any, example_inputs: Any) -> Any:
            self.tags.append(torch.compiler.config.cache_key_tag)
            if len(self.tags) == 1:
                raise StoreError("artefacts are neither carried nor in the cache: 0123")
            return print

    serialise.compile_ahead(None, (), Settings(cache_dir=str(tmp_path)), Compiler)
    assert len(set(Compiler.tags)) == 2
    with pytest.raises(StoreError):
        restore({**EMPTY, "table": [{"label": "0", "engine": "inductor", "key": "0" * 64}]})


EMPTY = {"settings": {}, "devices": [], "constants": [], "callables": []}
