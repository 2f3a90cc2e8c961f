"""A region rebuilt from its canonical form has that form again and computes the same; whatever else is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.base import RegionGraph
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.srg import SRG
from djinn_fx.srg.form.expressions import parse_bound, parse_size
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from djinn_fx.srg.form.rebuild import CannotRebuild, Rebuilt, SizeHint, rebuild, size_hints
from djinn_fx.srg.form.targets import find_operator, find_target
from djinn_fx.srg.lower import lower
from tests import capture, families, graphs
from tests.backend.support import AT_REPEATS
from tests.concrete import concrete, copied, whole
from tests.running import cut_by_labels
from tests.srg.form.test_hashing import MUST_DIFFER

#: Cases of the zoo: name, training, dynamic.
ZOO = (
    ("llama/decode-fixed", False, False),
    ("functional/decode-written", False, True),
    ("cnn/encode", True, False),
)
MORE_OF_THE_ZOO = (
    ("llama/prefill", False, True),
    ("gemma2/decode-growing", False, False),
    ("mpt/decode-fixed", False, True),
    ("functional/encode", True, True),
    ("gpt2/prefill", True, True),
    ("resnet/encode", True, False),
    ("t5/decode", False, True),
    ("swin/encode", False, False),
)


def through_json(form: Any) -> Any:
    return json.loads(json.dumps(form))


def rebuilt(region: RegionGraph) -> Rebuilt:
    """As a child process does it: from text."""
    form = through_json(region.canonical)
    return rebuild(form, hints=size_hints(form, region.example_inputs))


def form_of(srg: SRG) -> Any:
    """The form of a whole graph; constants count as inputs."""
    constants = [node for node in srg.nodes if node.op == "get_attr" and srg.record(node).outputs]
    return canonical_form(list(srg.ops), [*srg.inputs, *constants], srg.output.all_input_nodes)


def distinct_regions(srgs: list[SRG]) -> Iterator[RegionGraph]:
    seen = {""}
    for srg in srgs:
        run_passes(srg, AT_REPEATS, PassContext(expected_calls=1))
        for region in srg.regions:
            if region.structural_hash not in seen:
                seen.add(region.structural_hash)
                yield region_graph(srg, region)


def same_form(made: Rebuilt, form: Any) -> bool:
    """Whether a rebuilt graph has that form: judged anew, not by what rebuild itself saw."""
    gm = copy.deepcopy(made.gm)
    for node in gm.graph.nodes:
        node.meta.pop("srg", None)
    srg = lower(gm)
    again = canonical_form(list(srg.ops), srg.inputs, gm.graph.output_node().args[0])  # type: ignore[arg-type]
    return structural_hash(again) == structural_hash(form)


def same_results(made: Rebuilt, region: RegionGraph) -> None:
    values = concrete(region.example_inputs)
    ours, theirs = copied(values), copied(values)
    torch.manual_seed(3)
    found = made.gm(*ours)
    torch.manual_seed(3)
    expected = region.gm(*theirs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("name", "training", "dynamic"), ZOO)
def test_regions_of_the_zoo(name: str, training: bool, dynamic: bool) -> None:
    model, args, kwargs = families.case_named(name).make()
    loss = families.loss_of if training else None
    regions = list(
        distinct_regions(capture.capture(model, args, kwargs, training=training, dynamic=dynamic, loss_of=loss))
    )
    assert regions
    for region in regions:
        made = rebuilt(region)
        assert same_form(made, region.canonical)
        same_results(made, region)
    assert any(region.canonical["symbols"] for region in regions) == dynamic


@pytest.mark.exam
@pytest.mark.parametrize(("name", "training", "dynamic"), MORE_OF_THE_ZOO)
def test_regions_of_more_of_the_zoo(name: str, training: bool, dynamic: bool) -> None:
    test_regions_of_the_zoo(name, training, dynamic)


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_hand_built_graphs(name: str) -> None:
    region = whole(graphs.lowered(graphs.BUILDERS[name]()))
    made = rebuilt(region)
    assert same_form(made, region.canonical)
    same_results(made, region)


def test_training_with_symbolic_sizes() -> None:
    def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.softmax(torch.nn.functional.gelu(x @ w + b), -1)

    arguments = [torch.randn(6, 5), torch.randn(5, 7, requires_grad=True), torch.randn(7, requires_grad=True)]
    regions = list(distinct_regions(capture.capture(layer, arguments, training=True, dynamic=True)))
    assert {region.kind for region in regions} == {"forward", "backward"}
    for region in regions:
        same_results(rebuilt(region), region)


def test_what_has_different_forms_comes_back_as_different_graphs() -> None:
    """Every pair of the hash's own test, bodies of higher-order ops and odd literals among them."""
    refused = {}
    count = 0
    for name, pair in MUST_DIFFER.items():
        for function, arguments in pair:
            form = form_of(lower(graphs.trace(function, *arguments)))
            count += 1
            try:
                assert same_form(rebuild(through_json(form)), form), name
            except CannotRebuild as error:
                refused[name] = str(error)
    assert set(refused) == {"layout", "conjugate", "negative"}, "sparse, and lazily conjugated or negated, inputs"
    assert all("an input that is a" in reason for reason in refused.values())
    assert len(refused) < 0.05 * count


def test_inputs_that_share_memory_share_it_again() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k = x.view(4, 2, 3).unbind(1)
        return q + 1, k.mul_(2) + 1

    srg = graphs.lowered(graphs.trace(model, torch.empty(4, 6)))
    cut_by_labels(srg, [0 if srg.record(node).is_view and "mul" not in node.name else 1 for node in srg.ops])
    region = region_graph(srg, srg.regions[1])
    form = canonical_form(
        *(
            [srg.node(n) for n in names]
            for names in (srg.regions[1].nodes, srg.regions[1].inputs, srg.regions[1].outputs)
        )
    )
    first, second = rebuild(through_json(form)).example_inputs
    assert first.untyped_storage()._cdata == second.untyped_storage()._cdata
    theirs = [(t.shape, t.stride(), t.storage_offset()) for t in region.example_inputs]
    assert [(t.shape, t.stride(), t.storage_offset()) for t in (first, second)] == theirs


def test_symbols_keep_their_bounds_and_sizes() -> None:
    x = torch.randn(6, 5)
    torch._dynamo.mark_dynamic(x, 0, min=3, max=40)
    (srg,) = capture.capture(lambda x: (x.repeat(2, 1) * x.shape[0]).sum(1), (x,))
    region = whole(srg)
    assert ["s", "3", "40"] in region.canonical["symbols"]
    made = rebuilt(region)
    size = next(value for value in made.example_inputs if isinstance(value, torch.SymInt))
    bounds = size.node.shape_env.var_to_range[size.node.expr]
    assert (int(bounds.lower), int(bounds.upper), size.node.hint) == (3, 40, 6)
    same_results(made, region)


def test_an_operator_that_is_not_registered_here_is_refused() -> None:
    with pytest.raises(CannotRebuild, match="no operator mylib"):
        rebuild(changed(target="mylib.twice.default"))


def test_a_graph_that_comes_out_otherwise_is_refused() -> None:
    """The form says what each value is; a process whose operators behave otherwise must not build."""
    form = simple()
    form["ops"][0][3][2] = [1, 2]
    with pytest.raises(CannotRebuild, match="ops 0 comes out as"):
        rebuild(form)


def test_symbols_without_hints_are_refused() -> None:
    (srg,) = capture.capture(lambda x: x * 2, (torch.randn(5, 7),), dynamic=True)
    with pytest.raises(CannotRebuild, match="2 symbols but 0 hints"):
        rebuild(whole(srg).canonical)


def test_devices_that_nobody_tells_are_refused() -> None:
    form = simple()
    form["inputs"][0][0][4] = "cuda#0"
    with pytest.raises(CannotRebuild, match="no device is told"):
        rebuild(form)


# A form is data: nothing in it runs.


def simple() -> Any:
    """The form of one addition of two [2, 3] tensors."""
    return through_json(form_of(lower(graphs.trace(lambda x, y: x + y, torch.empty(2, 3), torch.empty(2, 3)))))


def changed(*, target: str | None = None, argument: Any = None, keyword: Any = None, result: Any = None) -> Any:
    """That form with something else in it."""
    form = simple()
    op = form["ops"][0]
    if target is not None:
        op[0] = target
    if argument is not None:
        op[1][1] = argument
    if keyword is not None:
        op[2] = keyword
    if result is not None:
        form["inputs"][0][0] = result
    return form


HOSTILE: dict[str, Any] = {
    "a function of os": lambda: changed(target="os.system"),
    "a function of torch": lambda: changed(target="torch.load"),
    "a builtin": lambda: changed(target="builtins.eval"),
    "a way into torch.ops": lambda: changed(target="load_library.x.y"),
    "dunder": lambda: changed(target="aten.__class__.__init__"),
    "an op that opens files": lambda: changed(target="aten.from_file.default", argument="/etc/passwd"),
    "a higher-order op that calls what it is given": lambda: changed(target="higher_order.flat_apply"),
    "code for a size": lambda: changed(argument=["sym", "__import__('os').getpid()"]),
    "code for a shape": lambda: changed(result=["float32", ["open('x')"], [1], [0], "cpu"]),
    "attribute of a size": lambda: changed(argument=["sym", "k0.node"]),
    "an endless power": lambda: changed(argument=["sym", "9**9**9**9"]),
    "a tower of powers": lambda: changed(argument=["sym", "(" * 40 + "2" + "**16)" * 40]),
    "a deep expression": lambda: changed(argument=["sym", "(" * 900 + "1" + ")" * 900]),
    "a deep literal": lambda: changed(argument=nested(3000)),
    "an edge to nowhere": lambda: changed(argument=["%", 99]),
    "an edge backwards": lambda: changed(argument=["%", -1]),
    "an unknown literal": lambda: changed(argument=["pickle", "gASV"]),
    "a name of torch that is no dtype": lambda: changed(argument=["torch", "torch.load"]),
    "a keyword that is no name": lambda: changed(keyword=["dict", ["a b", 1]]),
    "a device that is none": lambda: changed(result=["float32", [2, 3], [3, 1], [0], "../x"]),
    "an unknown type": lambda: changed(result=["Module", [2, 3], [3, 1], [0], "cpu"]),
    "not a form": lambda: {"ops": 3},
    "a list": list,
    "nothing": lambda: None,
}


def nested(depth: int) -> Any:
    literal: Any = 1
    for _ in range(depth):
        literal = ["list", literal]
    return literal


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_forms_are_refused(name: str) -> None:
    with pytest.raises(CannotRebuild):
        rebuild(HOSTILE[name]())


@pytest.mark.parametrize(
    "text", ["k0", "2*k0 + k1", "((k0*k1)//8)", "Max(1, k0)", "k0**2 - 1", "Mod(k0, 2)", "-k1 + 3"]
)
def test_expressions_are_read_back(text: str) -> None:
    import sympy

    symbols = {name: sympy.Symbol(name, positive=True, integer=True) for name in ("k0", "k1")}
    values = {"k0": 12, "k1": 5}
    functions = {"Max": max, "Mod": lambda a, b: a % b}
    found = parse_size(text, symbols).xreplace({symbols[name]: sympy.Integer(v) for name, v in values.items()})
    assert int(found) == eval(text, functions, values)


@pytest.mark.parametrize(
    "text", ["k9", "k0.x", "f(k0)", "k0 if k0 else 1", "1.5*k0", "k0**k0", "True", "lambda: 1", ""]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    import sympy

    with pytest.raises(ValueError):
        parse_size(text, {"k0": sympy.Symbol("k0")})


def test_bounds_are_read_back() -> None:
    (srg,) = capture.capture(lambda x: x * 2, (torch.randn(5, 7),), dynamic=True)
    for _, low, high in whole(srg).canonical["symbols"]:
        assert (str(parse_bound(low)), str(parse_bound(high))) == (low, high)
    with pytest.raises(ValueError, match="no bound"):
        parse_bound("os.getpid()")


def test_targets_are_found_under_the_names_they_are_given() -> None:
    assert find_operator("aten.add.Tensor") is torch.ops.aten.add.Tensor
    assert find_target("higher_order.cond") is torch.ops.higher_order.cond
    assert find_target("operator.getitem")((1, 2), 1) == 2
    for name in ("aten.add.Nothing", "aten.add", "aten", "", "higher_order.nothing", "operator.attrgetter"):
        with pytest.raises(CannotRebuild):
            find_target(name)


def test_a_hint_outside_its_bounds_is_refused() -> None:
    (srg,) = capture.capture(lambda x: x * 2, (torch.randn(5, 7),), dynamic=True)
    form = through_json(whole(srg).canonical)
    with pytest.raises(CannotRebuild, match="outside its bounds"):
        rebuild(form, hints=[SizeHint(value=0, positive=True) for _ in form["symbols"]])
