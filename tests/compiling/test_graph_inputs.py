"""What an input of Dynamo's graph is comes from where Dynamo found it, not from what it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.compiling.graph import GraphCompiler
from djinn_fx.compiling.graph_inputs import input_kinds
from djinn_fx.settings.table import Settings
from djinn_fx.srg.record import Residency


def kinds_of(function: Callable[..., Any], *args: Any) -> dict[str, Residency]:
    """The kind of each input, by Dynamo's name of its source."""
    found: dict[str, Residency] = {}

    def backend(gm: torch.fx.GraphModule, examples: list[Any]) -> Any:
        names = [str(node._dynamo_source.name) for node in gm.graph.find_nodes(op="placeholder")]
        found.update(zip(names, input_kinds(gm, examples), strict=True))
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(function, backend=backend)(*args)
    return found


def counts(found: dict[str, Residency]) -> list[int]:
    return [sum(kind is one for kind in found.values()) for one in (Residency.PARAMETER, Residency.BUFFER)]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.more = nn.ParameterList([nn.Parameter(torch.ones(4))])
        self.register_buffer("scale", torch.ones(4), persistent=False)
        self.mask = torch.ones(4)
        self.my_parameters = {"_parameters": torch.ones(4), "_buffers": torch.ones(4)}

    def forward(self, x: Tensor) -> Tensor:
        plain = self.my_parameters["_parameters"] + self.my_parameters["_buffers"] + self.mask
        return self.inner(x) * self.scale + self.more[0] + plain


def test_parameters_and_buffers_of_modules_however_deep() -> None:
    found = kinds_of(Model().eval(), torch.ones(2, 4))
    assert counts(found) == [5, 3]
    assert len(found) == 5 + 3 + 4


@pytest.mark.parametrize("name", ["lora_parameters", "_parameters", "my_buffers", "_buffers", "x_parameters_weight"])
def test_an_argument_may_be_called_anything(name: str) -> None:
    function = {}
    exec(f"def f(x, {name}): return x @ {name}", function)
    assert counts(kinds_of(function["f"], torch.ones(2, 4), torch.ones(4, 4))) == [0, 0]


def test_what_a_dictionary_or_another_object_calls_parameters_is_an_argument() -> None:
    class Bag:
        _parameters: dict[str, Tensor]

    bag = Bag()
    bag._parameters = {"weight": torch.ones(4, 4)}
    given = {"_parameters": {"weight": torch.ones(4, 4)}, "_buffers": torch.ones(4)}

    def function(x: Tensor, given: dict[str, Any], bag: Bag) -> Tensor:
        return x @ given["_parameters"]["weight"] @ bag._parameters["weight"] + given["_buffers"]

    assert counts(kinds_of(function, torch.ones(2, 4), given, bag)) == [0, 0]


def test_a_module_that_is_an_argument_or_a_global_keeps_its_parameters() -> None:
    linear = nn.Linear(4, 4)
    assert counts(kinds_of(lambda x, module: module(x), torch.ones(2, 4), linear)) == [2, 0]
    assert counts(kinds_of(lambda x: linear(x), torch.ones(2, 4))) == [2, 0]


def test_a_parameter_handed_over_is_one() -> None:
    assert counts(kinds_of(lambda x, w: x @ w, torch.ones(2, 4), nn.Parameter(torch.ones(4, 4)))) == [1, 0]


def test_a_graph_that_torch_keeps_is_told_apart_by_what_its_inputs_are() -> None:
    kinds = ([Residency.INPUT, Residency.PARAMETER], [Residency.INPUT, Residency.INPUT])
    assert len({GraphCompiler(Settings(), (), one).tag() for one in kinds}) == 2
