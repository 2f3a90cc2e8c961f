"""Engine keys: everything an artefact depends on besides the region's structure, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor_config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from djinn_fx.engines import keys
from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.inductor import engine as inductor
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.engines.keys import EngineKey, Guards, device_order, engine_key, symbolic_inputs
from djinn_fx.srg import Region, lower
from djinn_fx.srg.extract import boundary, extract
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from tests import graphs


def region_of(gm: Any) -> RegionGraph:
    """A whole graph as a region."""
    srg = lower(gm)
    nodes = list(srg.ops)
    inputs, outputs = boundary(srg, nodes, {})
    names = [tuple(node.name for node in part) for part in (nodes, inputs, outputs)]
    form = canonical_form(nodes, inputs, outputs)
    region = Region(
        index=0, label="all", nodes=names[0], inputs=names[1], outputs=names[2], structural_hash=structural_hash(form)
    )
    return RegionGraph(
        gm=extract(srg, region),
        structural_hash=region.structural_hash,
        canonical=form,
        example_inputs=tuple(node.meta["val"] for node in inputs),
        label="all",
        kind="inference",
    )


MLP = region_of(graphs.two_layer_mlp())


def key(engine: InductorEngine | None = None, region: RegionGraph = MLP) -> str:
    return engine_key(region, (engine or InductorEngine()).fingerprint()).digest


@pytest.fixture(autouse=True)
def _default_flags() -> Iterator[None]:
    """Put back every switch of the process that a test turns."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)


# Must differ


class _Named(CustomGraphPass):
    """A pass of the user's own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Nothing."""

    def uuid(self) -> str:
        return self._name


@contextmanager
def _called(switch: Callable[[], Any]) -> Iterator[None]:
    switch()
    yield


FLAGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inductor setting": lambda: inductor_config.patch(max_autotune=not inductor_config.max_autotune),
    "nested inductor setting": lambda: inductor_config.patch({"cpp.simdlen": 1}),
    "private inductor setting": lambda: inductor_config.patch(
        _micro_pipeline_tp=not inductor_config._micro_pipeline_tp
    ),
    "user's pass": lambda: inductor_config.patch(post_grad_custom_post_pass=_Named("one")),
    "user's function as pass": lambda: inductor_config.patch(_pre_fusion_custom_pass=lambda nodes: nodes),
    "number of threads": lambda: _called(lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "precision of products": lambda: _called(lambda: torch.set_float32_matmul_precision("medium")),
    "deterministic": lambda: _called(lambda: torch.use_deterministic_algorithms(True, warn_only=True)),
    "default dtype": lambda: _called(lambda: torch.set_default_dtype(torch.float64)),
    "mkldnn": lambda: torch.backends.mkldnn.flags(enabled=False),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_switch_of_the_process_changes_the_key(name: str) -> None:
    before = key()
    with FLAGS[name]():
        assert key() != before


def test_two_passes_of_the_user_differ() -> None:
    with inductor_config.patch(post_grad_custom_post_pass=_Named("one")):
        first = key()
    with inductor_config.patch(post_grad_custom_post_pass=_Named("two")):
        second = key()
    with inductor_config.patch(post_grad_custom_post_pass=_Named("one")):
        assert key() == first != second


ENGINES = {
    "mode": InductorEngine(mode="max-autotune"),
    "random numbers": InductorEngine(fallback_random=False),
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_setting_of_the_engine_changes_the_key(name: str) -> None:
    assert key(ENGINES[name]) != key()


@pytest.mark.parametrize("what", ["torch", "torch_source", "system", "cpu", "compiler"])
def test_a_version_changes_the_key(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    versions = inductor._versions()
    assert what in versions
    monkeypatch.setattr(inductor, "_versions", lambda: {**versions, what: "another"})
    assert key() != before


def test_our_own_versions_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(inductor, "CONVERTER_VERSION", -1)
    other_converter = key()
    monkeypatch.undo()
    monkeypatch.setattr("djinn_fx.engines.keys.ARTEFACT_SCHEMA", -1)
    other_schema = key()
    monkeypatch.undo()
    monkeypatch.setattr("djinn_fx.engines.keys.CANONICAL_SCHEMA", -1)
    assert len({before, other_converter, other_schema, key()}) == 4


def test_structure_changes_the_key() -> None:
    assert key(region=region_of(graphs.attention_block())) != key()


def on_devices(*devices: str) -> RegionGraph:
    """A sum of values on these devices, brought to the first."""

    def function(*values: Tensor) -> Tensor:
        total = values[0] * 2
        for value in values[1:]:
            total = total + value.to(total.device)
        return total

    with FakeTensorMode():
        return region_of(make_fx(function)(*[torch.empty(4, device=device) for device in devices]))


def test_the_device_index_changes_the_key_and_not_the_hash() -> None:
    first, second = on_devices("cuda:0"), on_devices("cuda:1")
    assert first.structural_hash == second.structural_hash
    assert key(region=first) != key(region=second)


def test_exchanged_devices_change_the_key() -> None:
    first, second = on_devices("cuda:0", "cuda:1"), on_devices("cuda:1", "cuda:0")
    assert first.structural_hash == second.structural_hash
    assert key(region=first) != key(region=second)


def test_devices_are_listed_in_order_of_first_use() -> None:
    with FakeTensorMode():
        values = [torch.empty(2, device=device) for device in ("cuda:1", "cpu", "cuda:0", "cuda:1")]
    assert device_order([values[0], tuple(values[1:]), None, 3]) == ("cuda:1", "cpu", "cuda:0")


# Must be equal


def test_the_same_region_has_the_same_key_again() -> None:
    assert key(region=region_of(graphs.two_layer_mlp())) == key()


def test_where_and_how_fast_to_compile_does_not_matter() -> None:
    before = key()
    with inductor_config.patch(compile_threads=1 + inductor_config.compile_threads, verbose_progress=True):
        assert key() == before


def test_the_key_is_the_same_in_another_process(repo: Path) -> None:
    script = (
        f"import torch\ntorch.set_num_threads({torch.get_num_threads()})\n"
        "from tests.engines import test_keys\nprint(test_keys.key())"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(repo), "PYTHONHASHSEED": "3"}
    ran = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == key()


# Fields and variants


def test_a_key_says_what_it_is_made_of() -> None:
    made = engine_key(MLP, {"engine": "one", "version": "2"})
    assert made.fields["structural_hash"] == MLP.structural_hash
    assert made.fields["engine"] == {"engine": "one", "version": "2"}
    assert made.fields["devices"] == ["cpu"]


def test_variants_have_keys_of_their_own() -> None:
    made = engine_key(MLP, {"engine": "one"})
    assert made.variant(0) == made
    digests = {made.variant(number).digest for number in range(8)}
    assert len(digests) == 8
    assert isinstance(made.variant(3), EngineKey)
    assert made.variant(3).fields["variant"] == 3


# Guards


def sizes(*shape: int) -> list[torch.SymInt]:
    tensor = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.empty(shape), static_shapes=False)
    return list(tensor.shape)


def test_a_fact_that_compiling_used_is_a_guard() -> None:
    rows, columns = sizes(5, 7)
    bool(rows <= 64)
    bool(rows + columns > 3)
    guards = Guards.of([rows, columns])
    assert guards.hold(sizes(60, 2))
    assert not guards.hold(sizes(65, 7))


def test_a_symbol_that_became_a_number_is_a_guard() -> None:
    rows, columns = sizes(5, 7)
    assert rows == 5
    guards = Guards.of([rows, columns])
    assert guards.hold(sizes(5, 9))
    assert not guards.hold(sizes(6, 7))


def test_how_two_sizes_compare_is_a_guard() -> None:
    rows, columns = sizes(6, 7)
    bool(rows < columns)
    guards = Guards.of([rows, columns])
    assert guards.hold(sizes(4, 9))
    assert not guards.hold(sizes(9, 4))


def test_guards_that_do_not_hold_leave_no_trace() -> None:
    rows, columns = sizes(5, 7)
    bool(rows <= 64)
    others = sizes(100, 7)
    env = others[0].node.shape_env
    before = len(env.guards)
    assert not Guards.of([rows, columns]).hold(others)
    assert len(env.guards) == before


def test_guards_that_hold_bind_the_sizes() -> None:
    rows, columns = sizes(5, 7)
    bool(rows <= 64)
    others = sizes(33, 7)
    assert Guards.of([rows, columns]).hold(others)
    assert any("64" in str(guard.expr) for guard in others[0].node.shape_env.guards)


def test_without_symbols_there_is_nothing_to_guard() -> None:
    assert Guards.of([]) == Guards(expression=None)
    assert Guards(expression=None).hold([])
    assert not Guards(expression="L['t0'] <= 4").hold([])


def test_symbolic_inputs_are_each_symbol_once_in_order() -> None:
    tensor = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.empty(5, 7), static_shapes=False)
    first, second = tensor.shape
    found = symbolic_inputs([second, tensor, 3, second * 2, torch.empty(2)])
    assert [str(size) for size in found] == [str(second), str(first)]


def test_which_gpu_an_index_is_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    region = on_devices("cuda:0")

    def key(name: str) -> str:
        found = SimpleNamespace(name=name, major=9, minor=0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
        keys._with_title.cache_clear()
        return engine_key(region, {}).digest

    try:
        assert len({key("NVIDIA H100"), key("NVIDIA L4"), key("NVIDIA H100")}) == 2
    finally:
        keys._with_title.cache_clear()
