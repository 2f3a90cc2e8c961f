"""Cutting a region out: what it reads, what it gives back, and that it computes what it did inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.fx import Node

from djinn_fx.srg import SRG, Region
from djinn_fx.srg.extract import (
    boundary,
    depends_on_data,
    extract,
    input_value,
    is_body,
    size_ops,
    symbol_sources,
    unbound_symbols,
    with_sizes,
)
from djinn_fx.srg.form.hashing import Scope, _body_form, structural_hash
from tests import capture, graphs


def ops(srg: SRG, *names: str) -> list[Node]:
    return [srg.node(name) for name in names]


def region(srg: SRG, names: Sequence[str]) -> Region:
    nodes = ops(srg, *names)
    inputs, outputs = boundary(srg, nodes, symbol_sources(srg))
    return Region(
        index=0,
        label="part",
        nodes=tuple(names),
        inputs=tuple(node.name for node in inputs),
        outputs=tuple(node.name for node in outputs),
        structural_hash="",
    )


def branching() -> SRG:
    def model(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        a = x.sin()
        b = a @ w
        c = a + b
        return c.exp(), b

    return graphs.lowered(graphs.trace(model, torch.empty(3, 3), torch.empty(3, 3)))


def test_inputs_are_in_order_of_first_use_and_outputs_are_what_others_read() -> None:
    srg = branching()
    middle = region(srg, ["mm", "add"])
    assert middle.inputs == ("sin", "w_1")
    assert middle.outputs == ("mm", "add"), "mm is read by the graph's output, add by exp"
    first = region(srg, ["sin", "mm"])
    assert first.inputs == ("x_1", "w_1")
    assert first.outputs == ("sin", "mm")


def test_an_extracted_region_takes_its_inputs_and_returns_its_outputs() -> None:
    srg = branching()
    part = region(srg, ["mm", "add"])
    gm = extract(srg, part)
    assert [node.name for node in gm.graph.find_nodes(op="placeholder")] == ["sin", "w_1"]
    sin, w = torch.randn(3, 3), torch.randn(3, 3)
    found = gm(sin, w)
    torch.testing.assert_close(found, (sin @ w, sin + sin @ w))
    assert all("val" in node.meta for node in gm.graph.nodes if node.op != "output")


def test_an_extracted_region_is_a_copy() -> None:
    srg = branching()
    gm = extract(srg, region(srg, ["mm", "add"]))
    for node in list(gm.graph.nodes):
        node.meta.clear()
        node.name = f"changed_{node.name}"
    assert [node.name for node in srg.ops] == ["sin", "mm", "add", "exp"]
    assert all("val" in node.meta for node in srg.ops)


def test_the_whole_graph_extracted_has_the_graphs_own_form() -> None:
    srg = graphs.lowered(graphs.attention_block())
    whole = Region(
        index=0,
        label="whole",
        nodes=tuple(node.name for node in srg.ops),
        inputs=tuple(node.name for node in srg.inputs),
        outputs=tuple(node.name for node in srg.output.all_input_nodes),
        structural_hash="",
    )
    forms = [_body_form(gm, Scope())["ops"] for gm in (extract(srg, whole), srg.gm)]
    assert structural_hash(forms[0]) == structural_hash(forms[1])


def test_a_region_that_only_writes_has_no_outputs_and_still_writes() -> None:
    def model(x: Tensor, cache: Tensor) -> Tensor:
        cache.copy_(x)
        return x + 1

    srg = graphs.lowered(graphs.trace(model, torch.empty(2), torch.empty(2)))
    part = region(srg, ["copy_"])
    assert (part.inputs, part.outputs) == (("cache_1", "x_1"), ())
    cache, x = torch.zeros(2), torch.ones(2)
    assert extract(srg, part)(cache, x) == ()
    assert torch.equal(cache, x)


def test_the_body_of_a_higher_order_op_travels_with_it() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (x,)) * 2

    srg = graphs.lowered(graphs.trace(model, torch.empty(3)))
    bodies = [node for node in srg.nodes if node.op == "get_attr"]
    assert [is_body(node) for node in bodies] == [True, True]
    part = region(srg, ["cond", "getitem"])
    assert part.inputs == ("gt", "x_1")
    x = torch.randn(3)
    torch.testing.assert_close(extract(srg, part)(torch.tensor(False), x), (x.cos(),))


def test_a_constant_tensor_is_an_input_with_its_own_value() -> None:
    def model(x: Tensor) -> Tensor:
        return x + torch.tensor([1.0, 2.0])

    (srg,) = capture.capture(model, (torch.ones(2),))
    constant = next(node for node in srg.nodes if node.op == "get_attr")
    assert not is_body(constant)
    part = region(srg, [node.name for node in srg.ops])
    assert constant.name in part.inputs
    assert isinstance(input_value(srg, constant), Tensor)


# Sizes


def dynamic() -> SRG:
    def model(x: Tensor, w: Tensor) -> Tensor:
        y = (x @ w).relu()
        return y.view(-1) * x.shape[0] + y.new_zeros(2 * x.shape[0], 5).sum()

    (srg,) = capture.capture(model, (torch.randn(6, 7), torch.randn(7, 9)), dynamic=True)
    return srg


def test_a_region_gets_the_symbols_its_shapes_mention() -> None:
    srg = dynamic()
    symbols = symbol_sources(srg)
    assert {node.op for node in symbols.values()} == {"placeholder"}
    for node in srg.ops:
        if srg.record(node).outputs:
            inputs, _ = boundary(srg, [node], symbols)
            assert not unbound_symbols(srg, [node], inputs)


def test_a_symbol_that_no_input_tells_is_unbound() -> None:
    srg = dynamic()
    flat = next(node for node in srg.ops if "view" in node.name)
    unbound = unbound_symbols(srg, [flat], [])
    assert unbound
    assert unbound <= set(symbol_sources(srg))


def test_ops_that_compute_a_symbol_are_not_its_source() -> None:
    def model(x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[1], x.shape[0])

    srg = graphs.lowered(graphs.trace(model, torch.empty(3, 5), symbolic=True))
    assert any(node.name.startswith("sym_size") for node in srg.ops)
    assert symbol_sources(srg) == {}


def test_each_region_computes_the_sizes_it_needs_itself() -> None:
    srg = dynamic()
    sizes = size_ops(srg)
    assert sizes
    readers = [node for node in srg.ops if node not in sizes and any(s in sizes for s in node.all_input_nodes)]
    for node in readers:
        members = with_sizes([node], sizes, srg.output)
        assert members[-1] is node
        assert {source for source in node.all_input_nodes if source in sizes} <= set(members[:-1])
        inputs, outputs = boundary(srg, members, symbol_sources(srg), sizes)
        assert not set(inputs) & sizes
        assert outputs == (node,)


DATA_DEPENDENT: dict[str, Callable[[Tensor], Tensor]] = {
    "which are not zero": torch.nonzero,
    "those above zero": lambda x: x[x > 0],
    "as many as a sum": lambda x: x.new_zeros(int(x.sum().item())),
}


@pytest.mark.parametrize("name", DATA_DEPENDENT)
def test_sizes_that_only_the_data_tell(name: str) -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True):
        (srg,) = capture.capture(lambda x: DATA_DEPENDENT[name](x) * 2, (torch.ones(4),))
    assert any(depends_on_data(srg, node) for node in srg.ops)
    assert not any(depends_on_data(srg, node) for node in srg.inputs)


def test_symbolic_sizes_are_not_told_by_data() -> None:
    srg = dynamic()
    assert not any(depends_on_data(srg, node) for node in srg.nodes)
