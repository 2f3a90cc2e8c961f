"""Hashes from parts written once are those of the forms written out, whatever region is asked for.

Whole graphs are held against each other in ``test_hashing.py`` and ``test_hashing_property.py``, for all cases there.
"""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch.fx import GraphModule, Node

from djinn_fx.srg import SRG
from djinn_fx.srg.extract import boundary, symbol_sources
from djinn_fx.srg.form import digests
from djinn_fx.srg.form.digests import Digests
from djinn_fx.srg.form.hashing import NoCanonicalForm, canonical_form, structural_hash
from tests import graphs

GRAPHS = {
    "layers": lambda: graphs.repeated_layers(4),
    "symbols": graphs.symbolic_mlp,
    "writes": graphs.writer_and_readers,
    "views": graphs.shared_storage,
    "attention": graphs.attention_block,
}


def parts(srg: SRG) -> list[tuple[list[Node], tuple[Node, ...], tuple[Node, ...]]]:
    """Every run of three ops as a region, and of all."""
    ops = list(srg.ops)
    found = []
    for members in (*(ops[at : at + 3] for at in range(len(ops))), ops):
        found.append((members, *boundary(srg, members, symbol_sources(srg))))
    return found


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_parts_have_the_hash_of_their_form(make: type[GraphModule]) -> None:
    srg = graphs.lowered(make())
    known = Digests(srg)
    for region in parts(srg):
        assert known.of(*region) == structural_hash(canonical_form(*region))


def test_a_form_is_written_out_only_where_it_has_symbols() -> None:
    with mock.patch.object(digests, "canonical_form", side_effect=canonical_form) as written:
        for make in (GRAPHS["layers"], GRAPHS["writes"], GRAPHS["views"], GRAPHS["attention"]):
            srg = graphs.lowered(make())
            for region in parts(srg):
                Digests(srg).of(*region)
        assert written.call_count == 0
        srg = graphs.lowered(graphs.symbolic_mlp())
        Digests(srg).of(*parts(srg)[-1])
        assert written.call_count == 1


@pytest.mark.parametrize("text", ["\x00", "\x01", 'a"\x00"b', "100 %d %s %%"])
def test_a_literal_that_looks_like_a_gap_is_no_gap(text: str) -> None:
    srg = graphs.lowered(graphs.trace(lambda x: torch.div(x, 2.0, rounding_mode="floor") + x, torch.empty(3)))
    node = next(iter(srg.ops))
    node.kwargs = {"rounding_mode": text}
    region = list(srg.ops), srg.inputs, srg.output.all_input_nodes
    found = Digests(srg).of(*region)
    assert found == structural_hash(canonical_form(*region))
    node.kwargs = {"rounding_mode": "floor"}
    srg = graphs.lowered(srg.gm)
    region = list(srg.ops), srg.inputs, srg.output.all_input_nodes
    assert Digests(srg).of(*region) != found


def test_what_has_no_form_has_no_hash() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    ops = list(srg.ops)
    with pytest.raises(NoCanonicalForm, match="neither inside nor an input"):
        Digests(srg).of(ops[1:], srg.inputs, ops[-1:])
