"""The GPU's bench where there is no GPU: it says so; and its cases and bookkeeping, on the CPU with fewer sides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.engines import gpu
from bench.harness.harness import Report


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    assert gpu.main(["--quick", "--json", str(target)]) == gpu.NOT_MEASURED
    said = capsys.readouterr()
    assert "no CUDA device" in said.err
    assert "nothing measured" in said.err
    assert not target.exists()


@pytest.mark.parametrize("words", [["--models", "llama-0"], ["--models", "gpt"], ["--dtypes", "int8"]])
def test_unknown_cases_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(words)


class TestOnTheCpu:
    @pytest.fixture(autouse=True)
    def _cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong() -> Any:
            raise RuntimeError("this side cannot be had\nand says so at length")

        monkeypatch.setattr(gpu, "DEVICE", "cpu")
        monkeypatch.setattr(gpu, "seconds", lambda call, number: (call(), 1e-3)[1])
        monkeypatch.setattr(gpu, "sides", lambda model, decode: {
            "eager": lambda: model,
            gpu.BASE: lambda: model,
            "off": lambda: lambda **given: gpu.result_of(model(**given)) * 1.1,
            "absent": wrong,
        })  # fmt: skip

    @pytest.mark.parametrize("name", ["llama-2", "llama-2-decode", "bert"])
    def test_measures_each_side_and_holds_answers_against_eager(self, name: str, tmp_path: Path) -> None:
        arguments = gpu._arguments(["--quick", "--json", str(tmp_path / "out.json")])
        report = Report("gpu", arguments)
        found = gpu.measure(name, "float32", arguments, report)
        assert found["absent"]["why_not"] == "RuntimeError: this side cannot be had"
        assert found["absent"]["samples"] == []
        assert found["off"]["wrong"] is not None
        assert found["eager"]["wrong"] is None
        assert len(found["eager"]["samples"]) == len(found[f"{gpu.BASE} again"]["samples"]) == gpu.QUICK_ROUNDS
        content = json.loads(json.dumps(report.content()))
        assert content["ratios"][f"{name} float32 eager"]["median"] == 1.0
        assert content["noise"][f"{name} float32 eager"]["median"] == 1.0
        assert f"{name} float32 absent" in content["facts"]
        rows = gpu._rows(name, found)
        assert len(rows) == len(found)
        assert any("WRONG" in row for row in rows)

    def test_a_decode_step_writes_one_place_of_its_cache(self) -> None:
        step, inputs = gpu.case("llama-2-decode", torch.float32, True)
        with torch.no_grad():
            for _ in range(3):
                step(**inputs)
        assert isinstance(step, gpu.DecodeStep)
        keys = step.cache.layers[0].keys
        (written,) = keys.abs().sum((0, 1, 3)).nonzero(as_tuple=True)
        assert written.tolist() == inputs["cache_position"].tolist()
