"""The GPU bench on made-up devices whose kernels obey the laws, and its reading of NeuSight's form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.cost import gpu as cost_gpu
from bench.cost import gpu_data as cost_gpu_data
from bench.cost.gpu_models import kernels
from djinn_fx.costmodels.laws.gpu_laws import LAWS, in_sequence

CONFIG = {
    "model_type": "gpt2",
    "n_embd": 512,
    "n_head": 8,
    "n_layer": 2,
    "vocab_size": 1000,
}
SHAPES = {
    "linear": [(1, 2**a, 2**b, 2**c) for a in (9, 11, 13) for b in (9, 12) for c in (9, 12)],
    "bmm": [(2**a, 2**b, 64, 2**b) for a in (3, 5, 7) for b in (7, 8, 9, 10)],
    "elem": [(2**a, 2**b) for a in (11, 13, 15) for b in (9, 11, 12)],
    "softmax": [(2**a, 2**b) for a in (12, 14) for b in (9, 10, 11, 13)],
    "ln": [(2**a, 2**b) for a in (12, 14) for b in (9, 10, 11, 13)],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three devices; every time is the law's with its plausible coefficients."""
    folder = tmp_path / "cost" / "neusight"
    for part in ("devices", "ops/test", "graphs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "models" / "gpt2_tiny.json").write_text(json.dumps(CONFIG))
    for index, name in enumerate(("One GPU", "Two GPU", "Three GPU")):
        sheet = {"Device": name, "Mem_Bw": 500 * (index + 1), "Num_Sm": 40 * (index + 1), "Core_Per_SM": 64,
                 "Freq": 1500, "SingleFLOPs": 7680 * (index + 1), "L2Cache": 6}  # fmt: skip
        (folder / "devices" / f"{name}.json").write_text(json.dumps(sheet))
    specs = cost_gpu_data.specs(folder)
    for file, shapes in SHAPES.items():
        columns = "B,M,N,K" if len(shapes[0]) == 4 else "B,H"
        lines = [f"OPName,Device,Latency,{columns}"]
        for name, spec in specs.items():
            for shape in shapes:
                law = LAWS[cost_gpu_data.FILES[file]]
                opname = "add" if file == "elem" else file
                row = {"OPName": opname, **dict(zip(columns.split(","), map(str, shape), strict=True))}
                sizes = np.array([cost_gpu_data._sizes(law.name, row)])
                milliseconds = 1e3 * law.seconds(spec, sizes, law.start)[0]
                lines.append(f"{opname},{name},{milliseconds},{','.join(map(str, shape))}")
        (folder / "ops" / "test" / f"{file}.csv").write_text("\n".join(lines) + "\n")
    made = kernels(CONFIG, "inf", 128, 4, fused=False)
    assert made is not None
    for name, spec in specs.items():
        place = folder / "graphs" / name.replace(" ", "_")
        place.mkdir()
        seconds = sum(in_sequence(LAWS[law], spec, np.array([sizes]), LAWS[law].start)[0] for law, sizes in made.all())
        (place / "gpt2_tiny-inf-128-4.json").write_text(json.dumps({"e2e_latency": 1e3 * seconds}))
        (place / "gpt2_tiny-train-128-4-dp4.json").write_text(json.dumps({"e2e_latency": 1.0}))
    return tmp_path


def test_devices_that_obey_the_laws_are_foretold(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DJINN_BENCH_DATA", str(data))
    result, table = tmp_path / "result.json", tmp_path / "table.json"
    code = cost_gpu.main(
        ["--data", str(data), "--quick", "--strict", "--json", str(result), "--coefficients", str(table)]
    )
    assert code == 0, capsys.readouterr().out
    facts = json.loads(result.read_text())["facts"]
    assert set(facts["unseen_ops"]["bmm"]) == {"One GPU", "Two GPU", "Three GPU"}
    assert all(one["test"] < 1 for of_law in facts["unseen_ops"].values() for one in of_law.values())
    assert len(facts["unseen_models"]) == 3
    for model in facts["unseen_models"]:
        assert model["predicted_s"] == pytest.approx(model["measured_s"], rel=0.05)
    assert set(json.loads(table.read_text())["laws"]) == set(LAWS)


def test_without_data_the_bench_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost_gpu.main(["--data", str(tmp_path / "nothing"), "--quick"]) == 0
    assert "skipped: no GPU data" in capsys.readouterr().out


def test_training_and_fusion_change_the_kernels() -> None:
    eager, fused, train = (
        kernels(CONFIG, mode, 128, 4, fused=fused) for mode, fused in (("inf", False), ("inf", True), ("train", False))
    )
    assert eager is not None
    assert fused is not None
    assert train is not None
    assert len(fused.all()) < len(eager.all())
    assert not eager.backward
    count = [sum(law == "linear" for law, _ in some) for some in (eager.forward, train.forward, train.backward)]
    assert count == [2 * 4 + 1, 2 * 4 + 1, 2 * (2 * 4 + 1)]
    assert kernels({"model_type": "unheard of"}, "inf", 128, 4, fused=False) is None


@pytest.mark.parametrize("family", ["bert", "opt", "switch_transformers"])
def test_each_family_has_its_products(family: str) -> None:
    config = {"model_type": family, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128,
              "num_hidden_layers": 3, "vocab_size": 99, "ffn_dim": 128, "d_model": 64, "num_heads": 4, "d_kv": 16,
              "num_layers": 3, "num_decoder_layers": 3, "d_ff": 128, "num_experts": 2,
              "expert_capacity": 8}  # fmt: skip
    made = kernels(config, "inf", 16, 2, fused=False)
    assert made is not None
    attentions = sum(law == "softmax" for law, _ in made.all())
    assert attentions == (9 if family == "switch_transformers" else 3)
    assert sum(law == "bmm" for law, _ in made.all()) == 2 * attentions
