"""explain over a corpus of model files: each is found, captured and told as it says of itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.exam.corpus_files import CORPUS, Expected, corpus, explained, graphs, structure, wrong

EVERY = corpus()
#: What would break first: one for each way of finding a model, of failing, and of capturing without values.
DEAREST = (
    "decoders/decode_static_cache",
    "inputs/dataclass_batch",
    "odd/hyper_network",
    "big/advertising_tables",
    "finding/flatten_and_big",
    "finding/part_of_model",
    "finding/torchbench_class",
    "vision/mlp_mixer",
    "text/clip_two_towers",
    "failing/wrong_shape",
    "recurrent/lstm_tagger",
    "generation/dcgan_generator",
)


def test_the_corpus_is_wide() -> None:
    kinds = Counter(one.kind for one in EVERY)
    assert len(EVERY) >= 150
    assert len(kinds) >= 12
    assert max(kinds.values()) <= 12
    assert {path.parent for path in CORPUS.glob("*/*.py")} == {path for path in CORPUS.iterdir() if path.is_dir()}
    ends = Counter(one.exit for one in EVERY)
    assert set(ends) == {0, 3, 4}
    assert ends[0] >= 150


def test_what_would_break_first() -> None:
    chosen = [one for one in EVERY if one.name in DEAREST]
    assert len(chosen) == len(DEAREST)
    assert faults(chosen, explained(chosen)) == {}


def faults(files: list[Expected], got: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By file: in what its report is not as the file says."""
    found = {said.name: wrong(said, one) for said, one in zip(files, got, strict=True)}
    return {name: texts for name, texts in found.items() if texts}


@pytest.fixture(scope="module")
def structures() -> dict[tuple[str, ...], str]:
    """By structure of what was captured: the file it was met in first."""
    return {}


@pytest.mark.exam
@pytest.mark.parametrize("kind", sorted({path.parent.name for path in CORPUS.glob("*/*.py")}))
def test_every_file_is_told_as_it_says_of_itself(kind: str, structures: dict[tuple[str, ...], str]) -> None:
    files = [one for one in EVERY if one.kind == kind]
    got = explained(files)
    assert faults(files, got) == {}
    for said, one in zip(files, got, strict=True):
        if one["report"] is not None and graphs(one["report"]):
            assert structures.setdefault(structure(one["report"]), said.name) == said.name


def test_a_file_that_says_nothing_of_itself_is_an_error(tmp_path: Path) -> None:
    from tests.exam.corpus_files import expected

    silent = tmp_path / "silent.py"
    silent.write_text("import torch\n")
    with pytest.raises(AssertionError, match="says nothing"):
        expected(silent)
