"""The file of what ops do: what it says, and what is refused of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from djinn_fx.costmodels.work.tables import FILE, PerElement, op_tables
from djinn_fx.errors import SettingsError

ROW = "  - kind: softmax\n    of: in\n    vector: 4\n    special: 1\n"


def test_what_it_says() -> None:
    tables = op_tables()
    assert tables.per_element["_softmax"] == PerElement("softmax", "in", 4, 1)
    assert tables.per_element["index_add"] == PerElement("scatter", 3, 1)
    assert tables.factorisations["linalg_qr"] == 4
    assert {"aten.sym_size", "aten.item"} <= tables.no_work
    assert {"aten.empty", "_c10d_functional.wait_tensor"} <= tables.no_traffic
    assert "topk" in tables.sorts
    assert "amax" in tables.reductions
    assert (len(tables.per_element), len(tables.sorts), len(tables.factorisations)) == (498, 15, 28)


def test_it_is_read_once() -> None:
    assert op_tables() is op_tables()


def test_what_costs_nothing_has_no_count() -> None:
    tables = op_tables()
    free = {name.removeprefix("aten.") for name in tables.no_work | tables.no_traffic}
    assert not free & {*tables.per_element, *tables.sorts, *tables.factorisations}


def test_names_without_work_are_torchs() -> None:
    names = [name.removeprefix("aten.") for name in op_tables().no_work if name.startswith("aten.")]
    known = [name for name in names if hasattr(torch.ops.aten, name)]
    assert len(known) > 0.8 * len(names)  # some are of other versions of torch


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("djinn_fx.ops/1", "djinn_fx.ops/2", "schema"),
        ("no_work:", "no_werk:", "did you mean 'no_work'"),
        (ROW, ROW + "    speed: 3\n", "unknown key 'speed'"),
        (ROW, ROW.replace("softmax", "softmix"), "no kind of work: 'softmix'"),
        (ROW, ROW.replace("of: in", "of: inputs"), "expected a whole number"),
        (ROW, ROW.replace("    of: in\n", ""), "a row without 'of'"),
        (ROW, ROW.replace("vector: 4", "vector: -4"), "expected a whole number"),
        ("_log_softmax_backward_data", "_log_softmax_backward_data logsumexp", "'logsumexp' is here twice"),
        ("nanquantile", "nanquantile sort", "sort: here twice"),
        ("reductions: >-", "reductions: >-\n  - sum", ""),
    ],
)
def test_what_is_not_of_its_form_is_refused_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = FILE.read_text("utf-8")
    assert old in text
    path = tmp_path / "ops.yaml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(SettingsError, match=r"ops\.yaml") as caught:
        op_tables(path)
    assert says in str(caught.value)
