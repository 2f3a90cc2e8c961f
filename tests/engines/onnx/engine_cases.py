"""What every engine that runs ONNX models must do; each engine's test file runs these with its own."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import resource
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.onnx.serving import session as onnx_session
from djinn_fx.engines.onnx.serving.engine import OnnxEngine
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from tests import graphs
from tests.running import cut_by_labels

WIDTH = 48


class Traced:
    """A function as a region, called with the function's own arguments.

    Args:
        weights: which arguments are weights.
        symbolic: whether sizes may differ from call to call.
    """

    def __init__(
        self, function: Callable[..., Any], *args: Any, weights: Sequence[int] = (), symbolic: bool = False
    ) -> None:
        self.function = function
        srg = graphs.lowered(graphs.trace(function, *args, symbolic=symbolic))
        cut_by_labels(srg, [0 for _ in srg.ops])
        names = [node.name for node in srg.gm.graph.find_nodes(op="placeholder")]
        self._order = [names.index(name) for name in srg.regions[0].inputs]
        places = tuple(place for place, argument in enumerate(self._order) if argument in weights)
        self.graph: RegionGraph = dataclasses.replace(region_graph(srg, srg.regions[0]), weights=places)
        returned = srg.gm.graph.output_node().args[0]
        names_out = [node.name for node in (returned if isinstance(returned, (tuple, list)) else (returned,))]
        self._picked = [list(srg.regions[0].outputs).index(name) for name in names_out]

    def opened(self, engine: OnnxEngine) -> Any:
        """The region's callable, by way of its stored form."""
        artefact = engine.compile(self.graph)
        return engine.load(Artefact(header=json.loads(json.dumps(artefact.header)), payload=artefact.payload))

    def arguments(self, *args: Any) -> list[Any]:
        """The region's arguments of the function's."""
        return [args[place] for place in self._order]

    def call(self, run: Any, *args: Any) -> list[Any]:
        """The function's results, by the engine."""
        found = run(self.arguments(*args))
        return [found[place] for place in self._picked]


def close(found: Sequence[Any], expected: Any) -> None:
    """Results that eager could have given: values, types, strides."""
    wanted = expected if isinstance(expected, (tuple, list)) else (expected,)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=2e-5, atol=2e-5, check_stride=True)
        assert not one.requires_grad


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.gelu(F.linear(x, w, b))


def parameters() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.randn(WIDTH, WIDTH) / 7), nn.Parameter(torch.randn(WIDTH))


def attend(x: Tensor, at: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One token [B, H, 1, D] against caches [B, H, S, D], which it is written into at a place."""
    new_keys, new_values = torch.index_copy(keys, 2, at, x * 2), torch.index_copy(values, 2, at, x + 1)
    scores = (x @ new_keys.transpose(-1, -2)).softmax(-1)
    result = scores @ new_values
    keys.copy_(new_keys)
    values.copy_(new_values)
    return result


def caches() -> list[Any]:
    """Arguments of :func:`attend`."""
    return [torch.randn(1, 4, 1, 16), torch.tensor([5]), torch.randn(1, 4, 24, 16), torch.randn(1, 4, 24, 16)]


class Cases:
    """See the module's text. Subclasses give the fixture ``make``, which makes the engine."""

    @pytest.fixture
    def engine(self, make: Callable[..., OnnxEngine]) -> OnnxEngine:
        return make()

    # Weights

    @torch.no_grad()
    def test_layers_share_a_model_and_have_their_own_weights(self, engine: OnnxEngine) -> None:
        x, layers = torch.randn(5, WIDTH), [parameters() for _ in range(3)]
        region = Traced(linear, x, *layers[0], weights=(1, 2))
        run = region.opened(engine)
        for _ in range(2):
            for w, b in layers:
                close(region.call(run, x, w, b), linear(x, w, b))
        assert run.sets == 3
        assert run.memory_bytes == 3 * 4 * WIDTH * WIDTH
        del w, b
        layers.clear()
        gc.collect()
        assert run.sets == 0

    @torch.no_grad()
    def test_a_merge_is_seen_at_once(self, engine: OnnxEngine) -> None:
        x, (w, b) = torch.randn(5, WIDTH), parameters()
        region = Traced(linear, x, w, b, weights=(1, 2))
        run = region.opened(engine)
        for change in (lambda: w.data.add_(1), lambda: w[3].zero_(), lambda: setattr(b, "data", b.data + 1)):
            close(region.call(run, x, w, b), linear(x, w, b))
            change()
            assert run.attempt(region.arguments(x, w, b)) is None
            close(region.call(run, x, w, b), linear(x, w, b))

    @torch.no_grad()
    def test_weights_as_inputs(self, make: Callable[..., OnnxEngine]) -> None:
        x, (w, b) = torch.randn(5, WIDTH), parameters()
        region = Traced(linear, x, w, b, weights=(1, 2))
        run = region.opened(make(weights="input"))
        for _ in range(3):
            close(region.call(run, x, w, b), linear(x, w, b))
            w.data += 1
        assert run.memory_bytes == 0

    @torch.no_grad()
    def test_weights_of_any_layout_and_type(self, engine: OnnxEngine) -> None:
        def function(x: Tensor, w: Tensor, v: Tensor, few: Tensor, none: Tensor, mask: Tensor) -> Tensor:
            table = torch.cat([v[few], none]).sum(0)
            return torch.where(mask, x @ w, table)

        w, v = torch.randn(WIDTH, WIDTH).t(), torch.randn(WIDTH, 9).t()
        rest = [v, torch.tensor([1, 4]), torch.randn(0, WIDTH), torch.randn(WIDTH) > 0]
        x = torch.randn(3, WIDTH)
        region = Traced(function, x, w, *rest, weights=(1, 2, 3, 4, 5))
        close(region.call(region.opened(engine), x, w, *rest), function(x, w, *rest))

    @torch.no_grad()
    def test_a_large_mask_can_be_a_weight(self, engine: OnnxEngine) -> None:
        def function(x: Tensor, mask: Tensor) -> Tensor:
            return torch.where(mask, x, x * 2)

        x, mask = torch.randn(3, 1024), torch.randn(1024) > 0
        region = Traced(function, x, mask, weights=(1,))
        close(region.call(region.opened(engine), x, mask), function(x, mask))

    @torch.no_grad()
    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's account of memory")
    def test_memory_kept_is_what_is_counted(self, engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        size = 2048
        x, w = torch.randn(2, size), torch.randn(size, size)
        region = Traced(lambda x, w: x @ w.t(), x, w, weights=(1,))
        run = region.opened(engine)
        monkeypatch.setattr(onnx_session, "_WORTH_GIVING_BACK", 0)
        region.call(region.opened(engine), x[:, :size], torch.randn(size, size))  # what any first session takes
        before = _resident_bytes()
        region.call(run, x, w)
        assert run.memory_bytes == w.nbytes
        assert _resident_bytes() - before < 1.5 * w.nbytes

    # Results

    @torch.no_grad()
    def test_results_stay_as_they_are(self, engine: OnnxEngine) -> None:
        def function(x: Tensor) -> tuple[Tensor, ...]:
            empty = (x[:0] * 2,) if engine.name != "openvino" else ()  # which is given no such tensors
            return x + 1, x > 0, (x * 2).t(), x.sum(), *empty

        given = [torch.randn(4, 6) for _ in range(6)]
        region = Traced(function, given[0])
        run = region.opened(engine)
        found = [region.call(run, x) for x in given]
        for x, results in zip(given, found, strict=True):
            close(results, function(x))
        kept = found[0]
        copies = [one.clone() for one in kept]
        kept[0].fill_(7)
        for x in given:
            region.call(run, x)[0].fill_(9)
        assert torch.equal(kept[0], torch.full((4, 6), 7.0))
        for one, other in zip(kept[1:], copies[1:], strict=True):
            assert torch.equal(one, other)

    @torch.no_grad()
    def test_a_result_that_never_changes_is_not_shared(self, engine: OnnxEngine) -> None:
        region = Traced(lambda x: (x + 1, torch.arange(5) * 2), torch.randn(3))
        run = region.opened(engine)
        region.call(run, torch.randn(3))[1].fill_(9)
        assert region.call(run, torch.randn(3))[1].tolist() == [0, 2, 4, 6, 8]

    @torch.no_grad()
    def test_views_of_arguments_and_of_results_are_views(self, engine: OnnxEngine) -> None:
        def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            total = x + 1
            return x.t(), total, total[1:]

        region = Traced(function, torch.randn(4, 4))
        x = torch.randn(4, 4)
        shown, total, part = region.call(region.opened(engine), x)
        close([shown, total, part], function(x))
        assert shown.data_ptr() == x.data_ptr()
        assert part.data_ptr() == total[1:].data_ptr()

    @torch.no_grad()
    def test_sizes_that_differ(self, engine: OnnxEngine) -> None:
        w, b = parameters()
        region = Traced(linear, torch.randn(2, 7, WIDTH), w, b, weights=(1, 2), symbolic=True)
        run = region.opened(engine)
        for sizes in ((2, 7), (3, 5), (1, 1), (4, 9), (2, 7), (0, 3)):
            x = torch.randn(*sizes, WIDTH)
            close(region.call(run, x, w, b), linear(x, w, b))
        assert run.sets == 1

    @torch.no_grad()
    def test_float32_is_float32(self, engine: OnnxEngine) -> None:
        x, w = torch.randn(8, 512), torch.randn(512, 512)
        region = Traced(torch.mm, x, w, weights=(1,))
        (found,) = region.call(region.opened(engine), x, w)
        exact = x.double() @ w.double()
        assert (found - exact).abs().max() < 4 * (x @ w - exact).abs().max() + 1e-5

    # Arguments

    @torch.no_grad()
    def test_arguments_as_they_come(self, engine: OnnxEngine) -> None:
        region = Traced(lambda x, y: (x * 2 + y, x @ y.t()), torch.randn(6, 6), torch.randn(6, 6))
        run = region.opened(engine)
        base = torch.randn(12, 12)
        needs = torch.randn(6, 6, requires_grad=True)
        with torch.inference_mode():
            frozen = torch.randn(6, 6)
        flat = torch.randn(80)
        cases = [
            (flat[1:37].view(6, 6), flat[39:75].view(6, 6)),  # not where vector units would like them
            (base[:6, :6], base[6:, 6:]),
            (base[::2, ::2], base[:6, :6].t()),
            (needs, frozen),
            (frozen, frozen),
            (torch._neg_view(base[:6, :6]), torch._efficientzerotensor((6, 6))),
        ]
        for x, y in cases:
            for _ in range(2):
                close(region.call(run, x, y), region.function(x, y))

    @torch.no_grad()
    def test_other_types_and_sizes_are_refused_untouched(self, engine: OnnxEngine) -> None:
        region = Traced(lambda x: x * 2, torch.randn(4, 4))
        run = region.opened(engine)
        for wrong in (torch.randn(4, 4).double(), torch.randn(4, 5), torch.randn(4, 4, 1), torch.ones(4, 4).long()):
            args = [wrong]
            assert run.attempt(args) is None
            with pytest.raises(EngineError):
                run(args)
            assert args[0] is wrong

    # Writing

    @torch.no_grad()
    def test_caches_are_written_where_they_are(self, engine: OnnxEngine) -> None:
        mine = caches()
        theirs = [one.clone() for one in mine]
        region = Traced(attend, *mine)
        run = region.opened(engine)
        assert len(run.mutated) == 2
        where, versions = [one.data_ptr() for one in mine], [one._version for one in mine]
        for step in range(4):
            for args in (mine, theirs):
                args[0], args[1] = torch.full((1, 4, 1, 16), step / 3), torch.tensor([5 + step])
            close(region.call(run, *mine), attend(*theirs))
            close(mine[2:], theirs[2:])
        assert [one.data_ptr() for one in mine[2:]] == where[2:]
        assert [one._version - old for one, old in zip(mine[2:], versions[2:], strict=True)] == [4, 4]
        session = run._reader.session
        assert len(session._in_place.outputs) == 2

    @torch.no_grad()
    @pytest.mark.parametrize("case", ["strided", "overlapping", "negated", "moving", "frozen"])
    def test_caches_that_cannot_be_written_so_are_right(self, engine: OnnxEngine, case: str) -> None:
        region = Traced(attend, *caches())
        run = region.opened(engine)
        for _ in range(3):
            mine = caches()
            if case == "strided":
                mine[2:] = [torch.randn(1, 24, 4, 16).transpose(1, 2) for _ in range(2)]
            elif case == "overlapping":
                mine[0] = mine[2][:, :, 4:5].contiguous().set_(mine[2].untyped_storage(), 80, (1, 4, 1, 16))
            elif case == "negated":
                mine[2] = torch._neg_view(mine[2])
            elif case == "frozen":
                with torch.inference_mode():
                    mine[2:] = [torch.randn(1, 4, 24, 16) for _ in range(2)]
            theirs = _alike(mine)
            with torch.inference_mode(case == "frozen"):
                found = region.call(run, *mine)
            expected = attend(*[one.clone() for one in theirs])
            if case != "overlapping":  # there eager's own result depends on when it reads
                with torch.inference_mode(case == "frozen"):
                    attend(*theirs)
                close([one.clone() for one in mine[2:]], [one.clone() for one in theirs[2:]])
            close(found, expected)

    @torch.no_grad()
    def test_one_tensor_given_twice_is_written_as_the_ops_write_it(self, engine: OnnxEngine) -> None:
        def function(x: Tensor, y: Tensor) -> Tensor:
            total = x + y
            x.copy_(total)
            y.copy_(total * 2)
            return total

        region = Traced(function, torch.randn(3), torch.randn(3))
        mine = torch.randn(3)
        first = mine.clone()
        (found,) = region.call(region.opened(engine), mine, mine)
        close([found, mine], [first * 2, first * 4])

    # Threads

    @torch.no_grad()
    def test_threads_call_at_once(self, engine: OnnxEngine) -> None:
        w, b = parameters()
        region = Traced(linear, torch.randn(2, 7, WIDTH), w, b, weights=(1, 2), symbolic=True)
        run, wrong, gate = region.opened(engine), [], threading.Barrier(4)

        def work(seed: int) -> None:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                gate.wait()
                for step in range(8):
                    x = torch.randn(1 + seed, 1 + step % 3, WIDTH, generator=generator)
                    (found,) = region.call(run, x, w, b)
                    if not torch.allclose(found, linear(x, w, b), atol=1e-4):
                        wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert run.sets == 1

    # The engine's contract

    def test_what_it_cannot_do_exactly_is_refused_with_a_reason(self, engine: OnnxEngine) -> None:
        region = Traced(lambda x: torch.bernoulli(x), torch.rand(3))
        reason = engine.supports(region.graph)
        assert isinstance(reason, Reason)
        assert reason.kind is ReasonKind.ENGINE_REFUSED
        with pytest.raises(EngineError):
            engine.compile(region.graph)

    def test_no_child_process_is_asked(self, engine: OnnxEngine) -> None:
        assert isinstance(engine.request(Traced(torch.tanh, torch.randn(3)).graph), Reason)

    def test_damaged_artefacts_are_errors_of_the_engine(self, engine: OnnxEngine) -> None:
        region = Traced(torch.tanh, torch.randn(3))
        artefact = engine.compile(region.graph)
        with pytest.raises(EngineError):
            engine.load(Artefact(header={"engine": engine.name}, payload=artefact.payload))
        assert artefact.payload is not None
        run = engine.load(Artefact(header=artefact.header, payload=artefact.payload[: len(artefact.payload) // 2]))
        args = [torch.randn(3)]
        for _ in range(2):
            with pytest.raises(EngineError):
                run(args)
        assert len(args) == 1

    def test_a_missing_library_is_an_answer(self, engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        assert engine.capability().can_run
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        capability = engine.capability()
        assert not capability.can_build
        assert "pip install" in str(capability.why_not)
        refusal = engine.supports(Traced(torch.tanh, torch.randn(3)).graph)
        assert refusal is not None
        assert refusal.kind is ReasonKind.ENGINE_REFUSED

    def test_the_fingerprint_tells_settings_and_threads_apart(self, make: Callable[..., OnnxEngine]) -> None:
        seen = [dict(make(**given).fingerprint()) for given in ({}, {"weights": "input"}, {"precision": "allow-bf16"})]
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(before + 1)
            seen.append(dict(make().fingerprint()))
        finally:
            torch.set_num_threads(before)
        assert all(one != other for place, one in enumerate(seen) for other in seen[:place])


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def _alike(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies with the same strides and no memory in common."""
    return [torch.empty_strided(one.shape, one.stride(), dtype=one.dtype).copy_(one) for one in tensors]
