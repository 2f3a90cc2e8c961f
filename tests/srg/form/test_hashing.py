"""Structural hash: what behaves differently has different hashes; what one artefact can serve has one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.srg import SRG, lower
from djinn_fx.srg.form.digests import Digests
from djinn_fx.srg.form.hashing import NoCanonicalForm, canonical_form, structural_hash
from tests import capture, graphs

#: A function and its arguments.
Case = tuple[Callable[..., Any], Sequence[Any]]

MATRIX = torch.empty(4, 6)
SQUARE = torch.empty(6, 6)
CUBE = torch.empty(2, 3, 4)


def whole(srg: SRG) -> str:
    """The hash of a whole graph, its outputs in order and as often as they are returned."""
    returned = srg.output.args[0]
    outputs = returned if isinstance(returned, (tuple, list)) else (returned,)
    constants = [n for n in srg.nodes if n.op == "get_attr" and srg.record(n).outputs]
    made = [value for value in outputs if isinstance(value, Node)]
    region = list(srg.ops), [*srg.inputs, *constants], made
    found = structural_hash(canonical_form(*region))
    assert Digests(srg).of(*region) == found
    return found


def hash_of(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> str:
    return whole(lower(graphs.trace(function, *args, symbolic=symbolic)))


def hash_of_fake(function: Callable[..., Any], make: Callable[[], Sequence[Tensor]]) -> str:
    """As ``hash_of``, for arguments on devices that this machine may not have."""
    with FakeTensorMode():
        return whole(lower(make_fx(function)(*make())))


def _same(x: Tensor) -> Tensor:
    return x * 2


def _write(x: Tensor, y: Tensor) -> Tensor:
    x.copy_(y)
    return x + y


def _overwrite_later(x: Tensor, y: Tensor) -> Tensor:
    made = x + y
    x.copy_(y)
    return made


def _loop(limit: int, factor: int) -> Callable[[Tensor], Any]:
    def function(x: Tensor) -> Any:
        start = x.new_zeros((), dtype=torch.int64)
        return torch._higher_order_ops.while_loop(lambda i, _: i < limit, lambda i, y: (i + 1, y * factor), (start, x))

    return function


def _cond(true: Callable[[Tensor], Tensor], false: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.cond(x.sum() > 0, true, false, (x,))


MUST_DIFFER: dict[str, tuple[Case, Case]] = {
    "operands": ((lambda x, y: x - y, [MATRIX, MATRIX.clone()]), (lambda x, y: y - x, [MATRIX, MATRIX.clone()])),
    "target": ((torch.sin, [MATRIX]), (torch.cos, [MATRIX])),
    "overload": ((lambda x: x + x, [MATRIX]), (lambda x: x + 1, [MATRIX])),
    "one op more": ((torch.sin, [MATRIX]), (lambda x: x.sin().sin(), [MATRIX])),
    "which of two uses": ((lambda x: x.sin() * x.cos(), [MATRIX]), (lambda x: x.sin() * x.sin(), [MATRIX])),
    "softmax dim": ((lambda x: x.softmax(0), [SQUARE]), (lambda x: x.softmax(1), [SQUARE])),
    "permutation": ((lambda x: x.permute(1, 0, 2) * 1, [CUBE]), (lambda x: x.permute(2, 0, 1) * 1, [CUBE])),
    "permutation of equal sizes": (
        (lambda x: x.permute(0, 2, 1).exp(), [torch.empty(3, 3, 3)]),
        (lambda x: x.permute(2, 1, 0).exp(), [torch.empty(3, 3, 3)]),
    ),
    "slice start": ((lambda x: x[1:3].exp(), [SQUARE]), (lambda x: x[2:4].exp(), [SQUARE])),
    "slice step": ((lambda x: x[::2].exp(), [SQUARE]), (lambda x: x[:3].exp(), [SQUARE])),
    "literal": ((lambda x: x * 2, [MATRIX]), (lambda x: x * 3, [MATRIX])),
    "literal 1, 1.0": ((lambda x: x * 1, [MATRIX]), (lambda x: x * 1.0, [MATRIX])),
    "literal 1, True": ((lambda x: x * 1, [MATRIX]), (lambda x: x * True, [MATRIX])),
    "literal 1.0, True": ((lambda x: x * 1.0, [MATRIX]), (lambda x: x * True, [MATRIX])),
    "literal 0.0, -0.0": ((lambda x: x * 0.0, [MATRIX]), (lambda x: x * -0.0, [MATRIX])),
    "literal nan, inf": ((lambda x: x * float("nan"), [MATRIX]), (lambda x: x * float("inf"), [MATRIX])),
    "literal, last bit": ((lambda x: x * 0.1, [MATRIX]), (lambda x: x * (0.1 + 2**-56), [MATRIX])),
    "literal complex": ((lambda x: x * 1j, [MATRIX]), (lambda x: x * 2j, [MATRIX])),
    "literal None": ((lambda x: x.clamp(None, 1), [MATRIX]), (lambda x: x.clamp(1, None), [MATRIX])),
    "literal string": (
        (lambda x: torch.div(x, 2, rounding_mode="floor"), [MATRIX]),
        (lambda x: torch.div(x, 2, rounding_mode="trunc"), [MATRIX]),
    ),
    "keyword": ((lambda x: torch.add(x, x, alpha=2), [MATRIX]), (lambda x: torch.add(x, x, alpha=3), [MATRIX])),
    "list order": (
        (lambda x, y: torch.cat([x, y]), [MATRIX, MATRIX.clone()]),
        (lambda x, y: torch.cat([y, x]), [MATRIX, MATRIX.clone()]),
    ),
    "part of a tuple": ((lambda x: x.split(2)[0] * 2, [MATRIX]), (lambda x: x.split(2)[1] * 2, [MATRIX])),
    "dtype of an input": ((_same, [MATRIX]), (_same, [MATRIX.double()])),
    "dtype asked for": ((lambda x: x.to(torch.half), [MATRIX]), (lambda x: x.to(torch.bfloat16), [MATRIX])),
    "shape": ((_same, [MATRIX]), (_same, [torch.empty(6, 4)])),
    "stride": ((_same, [SQUARE]), (_same, [SQUARE.t()])),
    "expanded": ((_same, [SQUARE]), (_same, [torch.empty(1, 6).expand(6, 6)])),
    "storage offset": ((_same, [torch.empty(8)[:4]]), (_same, [torch.empty(8)[4:]])),
    "memory format": (
        (lambda x: x.clone(memory_format=torch.contiguous_format), [torch.empty(1, 2, 3, 4)]),
        (lambda x: x.clone(memory_format=torch.channels_last), [torch.empty(1, 2, 3, 4)]),
    ),
    "layout": ((_same, [SQUARE]), (_same, [torch.eye(6).to_sparse()])),
    "conjugate": ((_same, [torch.empty(3, dtype=torch.cfloat)]), (_same, [torch.empty(3, dtype=torch.cfloat).conj()])),
    "negative": ((_same, [torch.empty(3)]), (_same, [torch._neg_view(torch.empty(3))])),
    "output order": ((lambda x: (x.sin(), x.cos()), [MATRIX]), (lambda x: tuple([x.sin(), x.cos()][::-1]), [MATRIX])),
    "output twice": ((lambda x: x.sin(), [MATRIX]), (lambda x: [x.sin()] * 2, [MATRIX])),
    "fewer outputs": ((lambda x: (x.sin(), x.cos()), [MATRIX]), (lambda x: (x.sin(), x.cos())[:1], [MATRIX])),
    "input order": ((lambda x, y: x - y, [MATRIX, MATRIX.double()]), (lambda x, y: y - x, [MATRIX.double(), MATRIX])),
    "unused input": ((lambda x, y: x + 1, [MATRIX, SQUARE]), (lambda x: x + 1, [MATRIX])),
    "an input twice": ((lambda x, y: x * y, [MATRIX, MATRIX.clone()]), (lambda x: x * x, [MATRIX])),
    "mutation": (
        (_write, [MATRIX, MATRIX.clone()]),
        (lambda x, y: torch.ops.aten.copy(x, y) + y, [MATRIX, MATRIX.clone()]),
    ),
    "order of mutation": ((_write, [MATRIX, MATRIX.clone()]), (_overwrite_later, [MATRIX, MATRIX.clone()])),
    "order of random ops": (
        (lambda x: torch.rand_like(x) - x.bernoulli(), [MATRIX]),
        (lambda x: -(x.bernoulli() - torch.rand_like(x)), [MATRIX]),
    ),
    "branch of cond": ((_cond(torch.sin, torch.cos), [MATRIX]), (_cond(torch.sin, torch.tan), [MATRIX])),
    "branches exchanged": ((_cond(torch.sin, torch.cos), [MATRIX]), (_cond(torch.cos, torch.sin), [MATRIX])),
    "literal in a branch": (
        (_cond(lambda x: x * 2, torch.cos), [MATRIX]),
        (_cond(lambda x: x * 3, torch.cos), [MATRIX]),
    ),
    "condition of a loop": ((_loop(3, 2), [MATRIX]), (_loop(4, 2), [MATRIX])),
    "body of a loop": ((_loop(3, 2), [MATRIX]), (_loop(3, 5), [MATRIX])),
}


@pytest.mark.parametrize("name", MUST_DIFFER)
def test_must_differ(name: str) -> None:
    (first, its), (second, others) = MUST_DIFFER[name]
    assert hash_of(first, *its) != hash_of(second, *others)


def _shape_limit(limit: int) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        torch._check(x.shape[0] <= limit)
        return x * 2

    return function


SYMBOLIC_MUST_DIFFER: dict[str, tuple[Case, Case]] = {
    # Tracing gives equal sizes one symbol.
    "equal sizes": ((_same, [torch.empty(5, 5)]), (_same, [torch.empty(5, 7)])),
    "which sizes are equal": ((_same, [torch.empty(5, 5, 7)]), (_same, [torch.empty(5, 7, 7)])),
    "known bound": ((_shape_limit(64), [MATRIX]), (_shape_limit(128), [MATRIX])),
    "size used as a number": ((lambda x: x * x.shape[0], [MATRIX]), (lambda x: x * x.shape[1], [MATRIX])),
    "expression": ((lambda x: x * (x.shape[0] * 2), [MATRIX]), (lambda x: x * (x.shape[0] + 2), [MATRIX])),
}


@pytest.mark.parametrize("name", SYMBOLIC_MUST_DIFFER)
def test_must_differ_with_symbolic_sizes(name: str) -> None:
    (first, its), (second, others) = SYMBOLIC_MUST_DIFFER[name]
    assert hash_of(first, *its, symbolic=True) != hash_of(second, *others, symbolic=True)


def test_a_symbolic_size_differs_from_a_number() -> None:
    assert hash_of(_same, MATRIX, symbolic=True) != hash_of(_same, MATRIX)


def test_inputs_that_share_memory_differ_from_inputs_that_do_not() -> None:
    base = torch.empty(12)

    def function(x: Tensor, y: Tensor) -> Tensor:
        x.mul_(2)
        return y + 1

    alone = hash_of(function, base.view(3, 4), torch.empty(12))
    shared = hash_of(function, base.view(3, 4), base)
    assert alone != shared


def test_a_random_number_generator_in_a_graph_has_no_canonical_form() -> None:
    gm = graphs.trace(lambda x: torch.add(x, 1), MATRIX)
    node = next(iter(gm.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)))
    node.kwargs = {"alpha": torch.Generator()}
    with pytest.raises(NoCanonicalForm, match="Generator"):
        whole(lower(gm))


@pytest.mark.parametrize(
    "target",
    [lambda x: x, torch.ops.higher_order.triton_kernel_wrapper_functional],
    ids=["nameless function", "triton kernel"],
)
def test_calls_that_a_graph_does_not_describe_have_no_canonical_form(target: Any) -> None:
    gm = graphs.trace(torch.sin, MATRIX)
    node = next(iter(gm.graph.find_nodes(op="call_function", target=torch.ops.aten.sin.default)))
    node.target = target
    with pytest.raises(NoCanonicalForm, match=node.name):
        whole(lower(gm))


# Devices


def test_device_types_differ() -> None:
    hashes = {hash_of_fake(_same, lambda d=device: [torch.empty(4, device=d)]) for device in ("cpu", "cuda:0")}
    assert len(hashes) == 2


def test_another_device_index_has_the_same_hash() -> None:
    hashes = {hash_of_fake(_same, lambda d=device: [torch.empty(4, device=d)]) for device in ("cuda:0", "cuda:1")}
    assert len(hashes) == 1


def test_one_device_differs_from_two() -> None:
    def arguments(first: str, second: str) -> Callable[[], Sequence[Tensor]]:
        return lambda: [torch.empty(4, device=first), torch.empty(4, device=second)]

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, y * 3

    together = hash_of_fake(both, arguments("cuda:0", "cuda:0"))
    apart = hash_of_fake(both, arguments("cuda:0", "cuda:1"))
    exchanged = hash_of_fake(both, arguments("cuda:1", "cuda:0"))
    assert together != apart == exchanged


# Must-equal pairs


def test_names_do_not_matter() -> None:
    gm = graphs.two_layer_mlp()
    before = whole(lower(gm))
    for number, node in enumerate(list(gm.graph.nodes)):
        node.name = f"renamed_{number}"
    assert whole(lower(gm)) == before


def test_other_weights_of_the_same_shape_do_not_matter() -> None:
    def model(x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w).relu()

    hashes = {hash_of(model, torch.randn(2, 6), torch.randn(4, 6)) for _ in range(3)}
    assert len(hashes) == 1


def test_stack_traces_and_module_paths_do_not_matter() -> None:
    gm = graphs.two_layer_mlp()
    before = whole(lower(gm))
    for number, node in enumerate(gm.graph.nodes):
        node.meta["stack_trace"] = f'File "elsewhere.py", line {number}, in f'
        node.meta["nn_module_stack"] = {"m": (f"layers.{number}", torch.nn.Linear)}
    assert whole(lower(gm)) == before


def test_names_of_symbols_do_not_matter() -> None:
    # Tracing names symbols by the argument's place; sympy sorts the terms of its text by the symbols' names.
    texts, hashes = set(), set()
    for place in range(8):
        gm = graphs.trace(_flat_times_sizes, *[torch.empty(())] * place, MATRIX, symbolic=True)
        srg = lower(gm)
        value = srg.inputs[-1].meta["val"]
        first, second = map(str, value.shape)
        texts.add((first, second, str(value.numel()).index(first) == 0))
        form = canonical_form(list(srg.ops), [srg.inputs[-1]], srg.output.all_input_nodes)
        hashes.add(structural_hash(form))
    assert len(texts) == 8
    assert {ordered for _, _, ordered in texts} == {True, False}, "sympy's order must differ, or nothing is tested"
    assert len(hashes) == 1


def _flat_times_sizes(*arguments: Tensor) -> Tensor:
    x = arguments[-1]
    return x.flatten() * (x.shape[0] + 2 * x.shape[1])


def test_another_layer_of_the_same_model_has_the_same_hash() -> None:
    (srg,) = capture.capture(equal_layers(), (torch.randn(2, 8),))
    by_layer: dict[str, list[Node]] = {}
    for node in srg.ops:
        by_layer.setdefault(list(node.meta["nn_module_stack"].values())[1][0], []).append(node)
    assert len(by_layer) == 3
    hashes = set()
    for nodes in by_layer.values():
        inside = set(nodes)
        inputs = dict.fromkeys(s for node in nodes for s in node.all_input_nodes if s not in inside)
        outputs = [node for node in nodes if any(user not in inside for user in node.users)]
        hashes.add(structural_hash(canonical_form(nodes, list(inputs), outputs)))
    assert len(hashes) == 1


def equal_layers() -> torch.nn.Module:
    """Three equal layers of a linear map and a bend each."""
    return torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()) for _ in range(3)))


def test_one_invoked_subgraph_has_one_hash_and_two_have_two() -> None:
    @torch.compiler.nested_compile_region
    def layer(x: Tensor) -> Tensor:
        return (x.sin() @ x).relu()

    @torch.compiler.nested_compile_region
    def other(x: Tensor) -> Tensor:
        return (x.cos() @ x).relu()

    def captured(function: Callable[[Tensor], Tensor]) -> str:
        (srg,) = capture.capture(function, (torch.randn(4, 4),))
        return whole(srg)

    assert captured(lambda x: layer(x)) == captured(lambda x: layer(x)) != captured(lambda x: other(x))


def test_the_hash_is_the_same_in_another_process(repo: Path) -> None:
    script = (
        "from tests import graphs\nfrom tests.srg.form.test_hashing import whole\n"
        "print(whole(graphs.lowered(graphs.attention_block())))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(repo)}
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == whole(graphs.lowered(graphs.attention_block()))
