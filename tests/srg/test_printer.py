"""The text form: complete, deterministic, free of addresses; golden files hold it fixed."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg import Phase
from djinn_fx.srg.plan import Transfer
from djinn_fx.srg.printer import Symbols, literal_text, to_text
from tests import graphs
from tests.golden.golden import check_golden


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_one_line_a_node_with_its_name(name: str) -> None:
    srg = graphs.lowered(graphs.BUILDERS[name]())
    lines = [line for line in to_text(srg).splitlines() if not line.startswith("#")]
    nodes = list(srg.nodes)
    assert len(lines) == len(nodes)
    for line, node in zip(lines, nodes, strict=True):
        assert line.startswith("return " if node.op == "output" else f"%{node.name} : ")


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_the_same_graph_gives_the_same_text(name: str) -> None:
    texts = set()
    for _ in range(2):
        srg = graphs.lowered(graphs.BUILDERS[name]())
        run_passes(srg, [EstimateCost(), Lifetimes()], PassContext())
        texts.add(to_text(srg))
    assert len(texts) == 1
    assert not re.search(r"0x[0-9a-f]{6,}", texts.pop())


@pytest.mark.parametrize("name", ["decoder_step_with_kv_cache", "symbolic_mlp"])
def test_golden(name: str) -> None:
    check_golden(f"print-{name}", to_text(graphs.lowered(graphs.BUILDERS[name]())))


def test_symbols_are_named_by_first_use() -> None:
    symbols = Symbols()
    assert symbols.rename("s77") == "s0"
    assert symbols.rename("2*s3*s77 + u5") == "2*s1*s0 + u0"
    assert symbols.rename("FloorDiv(s3, 2)") == "FloorDiv(s1, 2)"


def test_facts_are_printed_when_they_are_known() -> None:
    srg = graphs.cut(graphs.lowered(graphs.writer_and_readers()), 1)
    node = srg.node("add")
    before = to_text(srg)
    for fact in ("phase=", "dev=", "life=", "cost=", "why="):
        assert fact not in next(line for line in before.splitlines() if line.startswith("%add"))
    run_passes(srg, [EstimateCost(), Lifetimes()], PassContext())
    reason = Reason(kind=ReasonKind.PHASE, detail="because")
    srg.update(node, phase=Phase.DECODE, device="cuda:1", reason=reason)
    line = next(line for line in to_text(srg).splitlines() if line.startswith("%add"))
    for fact in ("region=0", "phase=decode", "dev=cuda:1", "life=[2,", "cost=", "why=1"):
        assert fact in line
    assert to_text(srg).endswith("\n# why 1 phase: because\n")


def test_a_reason_many_nodes_share_is_printed_once() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    for node in srg.ops:
        srg.update(node, reason=Reason(kind=ReasonKind.PHASE, detail="because", node=node.name))
    lines = to_text(srg).splitlines()
    assert sum("because" in line for line in lines) == 1
    assert sum("why=1" in line for line in lines) == len(list(srg.ops))


def test_header_names_the_pass_the_kind_the_phase_and_the_plan() -> None:
    srg = graphs.cut(graphs.lowered(graphs.writer_and_readers()), 1)
    srg.made_by, srg.phase, srg.order = "order", Phase.PREFILL, (0, 1)
    srg.transfers = (Transfer(value="add", source="cpu", target="cuda:0", before_region=1, nbytes=64),)
    srg.reasons = (
        *srg.reasons,
        Reason(kind=ReasonKind.SPLIT, detail="by hand", runner_up="whole", runner_up_cost="1 s"),
    )
    header = [line for line in to_text(srg).splitlines() if line.startswith("#")]
    assert header[0] == "# srg: inference graph, made by order, phase prefill"
    assert header[1].startswith("# region 0 'part 0': 1 ops, code 0")
    assert header[3:] == [
        "# order 0 1",
        "# transfer %add cpu -> cuda:0 before region 1, 64 B",
        "# why split: by hand (instead of whole: 1 s)",
    ]


def test_an_unpriced_op_says_so() -> None:
    def model(x: Tensor, lengths: Tensor) -> Tensor:
        return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)

    srg = graphs.lowered(graphs.trace(model, torch.empty(4), torch.tensor([1, 3])))
    run_passes(srg, [EstimateCost()], PassContext())
    assert "(unpriced)" in to_text(srg)
    assert "# why 1 unpriced: aten.segment_reduce.default: no rule" in to_text(srg)


def test_keyword_arguments_are_sorted() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.ops.aten._to_copy.default(x, memory_format=torch.preserve_format, dtype=torch.float64)

    text = to_text(graphs.lowered(graphs.trace(model, torch.empty(3))))
    assert "(%x_1, dtype=float64, memory_format=preserve_format)" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.float16, "float16"),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.strided, "strided"),
        (torch.channels_last, "channels_last"),
        (float("-inf"), "-inf"),
        (True, "True"),
        ("a'b", '"a\'b"'),
        (None, "None"),
        (torch.zeros(2, 3), "tensor(float32[2, 3])"),
        (object(), "<object>"),
    ],
)
def test_constants(value: object, text: str) -> None:
    assert literal_text(value) == text
