"""The memory plan read off what Inductor wrote: functions of its form, written by hand."""

from __future__ import annotations

import pytest

from djinn_fx.costmodels.memory.allocators import live_increase
from djinn_fx.engines.inductor.memory.buffers import memory_plan_of
from djinn_fx.errors import EngineError
from djinn_fx.srg.memory import Holds, MemoryRow

HEAD = "class Runner:\n    def call(self, args):\n        arg0_1, arg1_1, = args\n        args.clear()\n"


def given(name: str, nbytes: int, holds: Holds = Holds.INPUT) -> MemoryRow:
    return MemoryRow(name=name, holds=holds, nbytes=nbytes, start=0, end=1, device="cpu")


INPUTS = (given("x", 256), given("w", 1024, Holds.WEIGHT))
TYPES = ("float32", "float32")


def module(*lines: str) -> str:
    return HEAD + "".join(f"        {line}\n" for line in lines)


def test_a_buffer_lives_from_its_allocation_to_its_deletion_under_any_name() -> None:
    source = module(
        "assert_size_stride(arg0_1, (8, 8), (8, 1), 'input')",
        "buf0 = empty_strided_cpu((8, 8), (8, 1), torch.float32)",
        "cpp_fused_0(arg0_1, buf0)",
        "buf1 = reinterpret_tensor(buf0, (64, ), (1, ), 0); del buf0  # reuse",
        "cpp_fused_1(buf1)",
        "buf2 = empty_strided_cpu((4, ), (1, ), torch.int64)",
        "cpp_fused_2(buf1, buf2)",
        "del buf1",
        "cpp_fused_3(buf2)",
        "return (buf2, )",
    )
    plan = memory_plan_of(source, INPUTS, TYPES)
    rows = {row.name: row for row in plan.rows}
    assert [step.op for step in plan.steps] == [f"cpp_fused_{number}" for number in range(4)]
    assert (rows["buf0"].nbytes, rows["buf0"].start, rows["buf0"].end) == (256, 0, 3)
    assert (rows["buf2"].nbytes, rows["buf2"].start, rows["buf2"].end) == (32, 2, 4)
    assert rows["buf2"].holds is Holds.OUTPUT
    assert (rows["x"].end, rows["w"].end) == (4, 4)
    assert plan.peak("cpu").nbytes == 256 + 1024 + 256 + 32
    assert live_increase(plan, "cpu") == 256 + 32


def test_what_was_saved_goes_after_its_last_use() -> None:
    lines = ("del arg0_1", "cpp_fused_0(arg1_1)", "return ()")
    saved = (given("x", 256, Holds.SAVED), INPUTS[1])
    ends = {row.name: row.end for row in memory_plan_of(module("cpp_fused(arg0_1)", *lines), saved, TYPES).rows}
    assert ends == {"x": 1, "w": 2}


def test_torchs_own_operators_make_results_and_take_memory_beside_them() -> None:
    source = module(
        "assert_size_stride(arg0_1, (1, 2, 4, 8), (64, 32, 8, 1), 'input')",
        "buf0 = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(arg0_1, arg0_1, arg0_1, 0.0, True)",
        "buf1 = buf0[0]",
        "del buf0",
        "cpp_fused_0(buf1)",
        "return (buf1, )",
    )
    plan = memory_plan_of(source, INPUTS, TYPES, threads=2)
    attention = [(row.holds, row.nbytes, row.end) for row in plan.rows if row.name == "buf0"]
    assert attention == [
        (Holds.OUTPUT, 4 * 64, 2),
        (Holds.ACTIVATION, 4 * 8, 1),
        (Holds.WORKSPACE, 2 * 4 * (4 * 4 + 2 * 4 + 4 * 8), 1),
    ]


def test_sizes_with_symbols_are_worked_out() -> None:
    source = module("buf0 = empty_strided_cpu((s27, 8), (8, 1), torch.float32)", "cpp_fused_0(buf0)", "return (buf0, )")
    plan = memory_plan_of(source, INPUTS, TYPES, values={"s27": 100})
    assert next(row for row in plan.rows if row.name == "buf0").nbytes == 4 * 100 * 8
    with pytest.raises(EngineError, match="no size is given for s27"):
        memory_plan_of(source, INPUTS, TYPES)


def test_a_call_that_is_not_understood_makes_what_is_asserted_of_it() -> None:
    source = module(
        "buf0 = torch.ops.mylib.strange.default(arg0_1)",
        "assert_size_stride(buf0, (16, ), (1, ), 'mylib')",
        "cpp_fused_0(buf0)",
        "return (buf0, )",
    )
    plan = memory_plan_of(source, INPUTS, TYPES)
    assert next(row for row in plan.rows if row.name == "buf0").nbytes == 64


@pytest.mark.parametrize(
    "source", ["def other(): pass", "no Python at all", module("return ()").replace("arg1_1, ", "")]
)
def test_text_of_another_form_is_one_clear_error(source: str) -> None:
    with pytest.raises(EngineError, match="is not understood"):
        memory_plan_of(source, INPUTS, TYPES)
