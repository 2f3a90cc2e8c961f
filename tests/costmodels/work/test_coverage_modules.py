"""Every op of torch's database of modules is priced, forward and backward, and so are those of Transformers families.

A family's case here is its smallest graph; ``python -m tests.costmodels.all_families`` runs every case.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from djinn_fx.costmodels.symbolic import SUMMED, symbolic_total
from djinn_fx.costmodels.work.work import total
from djinn_fx.costmodels.work.work_of import work_graph, work_of
from djinn_fx.srg import SRG, lower
from tests import families
from tests.capture import capture
from tests.sweeps import some_of


def unpriced(srg: SRG) -> dict[str, str]:
    """Ops without a price, and why."""
    works = (work_of(srg, node) for node in srg.ops)
    return {work.op: work.problem for work in works if work.problem is not None}


def traced(info: Any, training: bool) -> SRG | None:
    """The graph of a module on its first input; None if the trace depends on the data."""
    torch.manual_seed(0)
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=training, training=training)
    one = next(iter(inputs))
    module = info.module_cls(*one.constructor_input.args, **one.constructor_input.kwargs).train(training)
    values, structure = pytree.tree_flatten((one.forward_input.args, one.forward_input.kwargs))
    held = dict(module.named_parameters())

    def run(values: list[Any], parameters: dict[str, torch.Tensor]) -> list[Any]:
        args, kwargs = pytree.tree_unflatten(values, structure)
        results = pytree.tree_leaves(torch.func.functional_call(module, parameters, args, kwargs))
        wanted = [p for p in parameters.values() if p.requires_grad]
        loss = sum(
            (r.pow(2).sum() for r in results if isinstance(r, torch.Tensor) and r.requires_grad), torch.zeros(())
        )
        if not training or not wanted or not loss.requires_grad:
            return results
        return list(torch.autograd.grad(loss, wanted, allow_unused=True))

    with torch.set_grad_enabled(training):
        try:
            return lower(make_fx(run)(values, held))
        except (NotImplementedError, RuntimeError, TypeError):
            return None


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.exam)], ids=["a third", "all"])
def test_every_op_of_the_database_of_modules_is_priced(training: bool, step: int) -> None:
    asked = module_db[::step]
    seen = 0
    problems: dict[str, dict[str, str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in asked:
            srg = traced(info, training)
            if srg is None:
                continue
            seen += 1
            if found := unpriced(srg):
                problems[info.name] = found
    assert problems == {}
    assert seen >= 0.8 * len(asked)


_KNOWN = {case.name for case in families.all_cases()}
CASES = ("llama/prefill", "gpt2/decode-growing", "bert/encode", "vit/encode", "t5/encode", "mamba/prefill")


@pytest.mark.parametrize("name", some_of([name for name in CASES if name in _KNOWN]))
def test_every_op_of_a_family_is_priced(name: str) -> None:
    module, args, kwargs = families.case_named(name).make()
    graphs = capture(module, args, kwargs)
    assert graphs
    assert [unpriced(srg) for srg in graphs] == [{}] * len(graphs)


@pytest.mark.parametrize("name", some_of(["bert/encode", "llama/prefill"]))
def test_formulas_of_a_graph_are_its_work_at_any_sizes(name: str) -> None:
    module, args, kwargs = families.case_named(name).make()
    graphs = capture(module, args, kwargs, dynamic=True)
    symbols = 0
    for srg in graphs:
        formulas = symbolic_total(srg)
        symbols += len(formulas.symbols)
        for first in (2, 3, 17, 64):
            sizes = {symbol: first + place for place, symbol in enumerate(formulas.symbols)}
            expected = total(work_graph(srg, sizes=sizes).ops)
            found = formulas.at(sizes)
            assert {f: getattr(found, f) for f in SUMMED} == {f: getattr(expected, f) for f in SUMMED}
    assert symbols


def test_training_graphs_are_priced() -> None:
    module, args, kwargs = families.case_named("llama/prefill").make()
    graphs = capture(module, args, kwargs, training=True, loss_of=families.loss_of)
    assert len(graphs) == 2
    assert [unpriced(srg) for srg in graphs] == [{}, {}]
