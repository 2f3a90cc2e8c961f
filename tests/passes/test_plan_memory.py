"""plan-memory: who lives when, held against what execution shows, storage by storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from djinn_fx.costmodels.memory.plan import memory_plan
from djinn_fx.engines.eager import as_callable
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.plan_memory import PlanMemory
from djinn_fx.srg import SRG, GraphKind, Residency, lower
from djinn_fx.srg.graph import tensors_of
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow
from tests import graphs, programs
from tests.capture import capture
from tests.running import cut_by_labels, run_by_regions


class Watch(TorchDispatchMode):
    """Notes which storages are alive when each op begins: those of the arguments first, then those that ops made."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        super().__init__()
        self.made_by: dict[int, int] = {}
        self.alive: list[set[int]] = []
        self._known: list[StorageWeakRef] = []
        self._note(-1, arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.alive.append({number for number, one in enumerate(self._known) if not one.expired()})
        result = func(*args, **(kwargs or {}))
        self._note(len(self.alive) - 1, result)
        return result

    def _note(self, step: int, value: Any) -> None:
        for tensor in tensors_of(value):
            reference = StorageWeakRef(tensor.untyped_storage())
            if reference not in self._known:
                self.made_by[len(self._known)] = step
                self._known.append(reference)


class Touch(TorchDispatchMode):
    """Notes at which ops each storage that an op made is read, written or made."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        super().__init__()
        self.names: list[str] = []
        self.at: dict[StorageWeakRef, list[int]] = {}
        self._given = [StorageWeakRef(one.untyped_storage()) for one in arguments]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_of([*pytree.tree_leaves((args, kwargs)), *pytree.tree_leaves(result)]):
            reference = StorageWeakRef(tensor.untyped_storage())
            if reference not in self._given:
                self.at.setdefault(reference, []).append(len(self.names))
        self.names.append(str(func))
        return result


def planned(srg: SRG) -> MemoryPlan:
    run_passes(srg, [PlanMemory(threads=1)], PassContext(), check=True)
    assert srg.memory is not None
    return srg.memory


def row(plan: MemoryPlan, name: str) -> MemoryRow:
    return next(one for one in plan.rows if one.name == name and one.holds is not Holds.WORKSPACE)


def lives_while_it_runs(srg: SRG, args: list[Tensor]) -> int:
    """Assert that every storage made by an op lives as long as planned, neither shorter nor longer; how many did."""
    plan = planned(srg)
    steps = [place for place, one in enumerate(plan.steps) if one.op.startswith("aten.")]  # those that dispatch
    watch = Watch(args)
    with torch.no_grad(), watch:
        as_callable(srg.gm)(list(args))
    assert len(watch.alive) == len(steps)
    rows: dict[str, list[MemoryRow]] = {}
    for one in plan.rows:
        if one.holds is not Holds.WORKSPACE:
            rows.setdefault(one.name, []).append(one)
    made = {number: step for number, step in watch.made_by.items() if step >= 0}
    for number, dispatched in made.items():
        begin = steps[dispatched]
        mine = rows[plan.steps[begin].name].pop(0)  # in the order of the op's results, here and there
        seen = [begin, *(steps[place] for place, alive in enumerate(watch.alive) if number in alive)]
        assert seen == [step for step in steps if mine.start <= step < mine.end], mine
    return len(made)


@programs.DETERMINISTIC
@given(programs.PROGRAMS)
def test_storages_of_random_programs_live_as_planned(program: programs.Program) -> None:
    gm = programs.build(program)
    args = programs.arguments_of(program.transposed)
    if programs.behaviour(gm.forward, [one.clone() for one in args]) == "refused":
        return
    lives_while_it_runs(lower(gm), args)


@programs.DETERMINISTIC
@given(programs.PROGRAMS, st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_nothing_is_touched_outside_its_lifetime_where_regions_run_in_an_order(
    program: programs.Program, labels: list[int]
) -> None:
    gm = programs.build(program)
    args = programs.arguments_of(program.transposed)
    if programs.behaviour(gm.forward, [one.clone() for one in args]) == "refused":
        return
    srg = lower(gm)
    cut_by_labels(srg, [labels[place % len(labels)] for place, _ in enumerate(srg.ops)])
    plan = planned(srg)
    steps = [place for place, one in enumerate(plan.steps) if one.op.startswith("aten.")]
    touch = Touch(args)
    with torch.no_grad(), touch:
        run_by_regions(srg, args)
    assert touch.names == [plan.steps[place].op for place in steps]
    rows: dict[str, list[MemoryRow]] = {}
    for one in plan.rows:
        if one.holds is not Holds.WORKSPACE:
            rows.setdefault(one.name, []).append(one)
    for seen in touch.at.values():
        mine = rows[plan.steps[steps[seen[0]]].name].pop(0)
        assert mine.start == steps[seen[0]]
        assert steps[seen[-1]] < mine.end, mine


@pytest.mark.parametrize("name", ["shared_storage", "writer_and_readers", "two_layer_mlp", "attention_block"])
def test_storages_live_as_planned(name: str) -> None:
    gm = graphs.BUILDERS[name]()
    values = [node.meta["val"] for node in gm.graph.find_nodes(op="placeholder")]
    args = [torch.randn(tuple(map(int, one.shape)), dtype=one.dtype) for one in values]
    assert lives_while_it_runs(graphs.lowered(gm), args) > 0


def test_the_profile_is_the_sum_of_the_rows_at_each_step() -> None:
    plan = planned(graphs.lowered(graphs.attention_block()))
    for step, nbytes in enumerate(plan.profile("cpu")):
        assert nbytes == sum(one.nbytes for one in plan.rows if one.start <= step < one.end)
        assert set(plan.during(step, "cpu")) == {one for one in plan.rows if one.start <= step < one.end}
    peak = plan.peak("cpu", biggest=3)
    assert peak.nbytes == max(plan.profile("cpu"))
    assert len(peak.biggest) == 3
    assert peak.at is not None
    assert peak.at.name == plan.steps[peak.step].name


def test_what_memory_is_for() -> None:
    plan = planned(graphs.lowered(graphs.decoder_step_with_kv_cache()))
    holds = {one.name: one.holds for one in plan.rows if one.holds is not Holds.WORKSPACE}
    assert (holds["x_1"], holds["w_qkv_1"], holds["cache_k_1"]) == (Holds.INPUT, Holds.WEIGHT, Holds.STATE)
    assert {Holds.OUTPUT, Holds.ACTIVATION} <= {one.holds for one in plan.rows}
    written = row(plan, "cache_k_1")
    assert (written.start, written.end) == (0, len(plan.steps))


def test_an_ops_own_memory_is_a_row_of_one_step() -> None:
    plan = planned(graphs.lowered(graphs.attention_block()))
    (own,) = [one for one in plan.rows if one.holds is Holds.WORKSPACE and "attention" in one.name]
    length, head = graphs.LENGTH, graphs.HEAD_SIZE
    assert own.nbytes == 4 * (length * length + 2 * length + length * head)
    assert own.end == own.start + 1


def test_sizes_are_worked_out_without_tracing_again() -> None:
    (srg,) = capture(lambda x: torch.softmax(x @ x.t(), -1).sum() + x.sum(), (torch.randn(7, 12),), dynamic=True)
    symbols = {str(size) for node in srg.nodes for meta in srg.record(node).outputs for size in meta.shape}
    rows, columns = (name for name in sorted(symbols) if name.startswith("s") and name.isalnum())
    nodes = len(list(srg.nodes))
    values = {rows: 100, columns: 3}
    for first, second in ((rows, columns), (columns, rows)):
        plan = memory_plan(srg, {first: 100, second: 3}, threads=1)
        made = {one.nbytes for one in plan.rows if one.holds is Holds.ACTIVATION}
        assert made & {4 * 100 * 100, 4 * 3 * 3}
    assert len(list(srg.nodes)) == nodes
    with pytest.raises(ValueError, match=f"no size is given for {columns}|no size is given for {rows}"):
        memory_plan(srg, dict.fromkeys(list(values)[:1], 1), threads=1)


def test_a_training_step_has_a_profile_for_each_phase_and_gives_back_what_was_saved() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    forward, captured = capture(model, (torch.randn(3, 8),), training=True)
    saved_by = {node.name: Residency.ACTIVATION for node in captured.inputs if not node.name.startswith("primals")}
    backward = lower(captured.gm, GraphKind.BACKWARD, saved_by)
    plans = {plan.phase: plan for plan in (planned(forward), planned(backward))}
    assert set(plans) == {"forward", "backward"}
    saved = [one for one in plans["forward"].rows if one.holds is Holds.SAVED]
    assert saved
    assert all(one.end == len(plans["forward"].steps) for one in saved)
    handed = [one for one in plans["backward"].rows if one.holds is Holds.SAVED]
    assert any(one.end < len(plans["backward"].steps) for one in handed)


def test_weights_in_a_backward_graph_stay_and_what_was_saved_goes() -> None:
    gm = graphs.repeated_layers(1)
    residency = {"x_1": Residency.ACTIVATION, "w_1": Residency.PARAMETER, "w_2": Residency.INPUT}
    plan = planned(lower(gm, GraphKind.BACKWARD, residency))
    position = {one.name: place for place, one in enumerate(plan.steps)}
    assert row(plan, "x_1").end == position["add"] + 1
    assert row(plan, "w_1").end == row(plan, "w_2").end == len(plan.steps)


def test_regions_out_of_order_are_steps_in_the_order_they_run() -> None:
    srg = graphs.cut(graphs.lowered(graphs.writer_and_readers()), 1, 1)
    srg.order = (1, 0, 2)
    names = [one.name for one in planned(srg).steps]
    first, second = srg.regions[0].nodes, srg.regions[1].nodes
    assert names[:2] == [*second, *first]


def test_devices_have_peaks_of_their_own() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    graphs.on_device(srg, "cuda:0", "gelu")
    plan = planned(srg)
    assert plan.devices == ("cpu", "cuda:0")
    assert plan.peak("cuda:0").nbytes == srg.record(srg.node("gelu")).nbytes
    assert srg.peak_bytes == max(plan.peak(device).nbytes for device in plan.devices)
