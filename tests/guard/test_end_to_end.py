"""From torch.compile to ``djinn repro``: an engine that is wrong is caught, put on record, and seen again alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import djinn_fx.backend
from djinn_fx.cli.main import main
from djinn_fx.engines.bound.region import BoundRegion
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.reasons import Reason, ReasonKind
from tests.backend.support import Noted, djinn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def test_a_wrong_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)).eval()
    options = {"engine": "onnxruntime", "cache_dir": str(tmp_path / "cache")}
    right = BoundRegion.attempt
    answers: list[int] = []
    # Nothing is learnt here from waiting for it.
    refusal = Reason(kind=ReasonKind.ENGINE_REFUSED, detail="inductor: not in this test")
    monkeypatch.setattr(InductorEngine, "supports", lambda *_: refusal)

    def wrong(self: BoundRegion, args: list[Any]) -> Sequence[Any] | None:
        results = right(self, args)
        answers.append(1)
        return None if results is None else [results[0] * 1.5, *results[1:]]

    def run() -> Noted:
        torch._dynamo.reset()
        djinn_fx.backend.reset()
        noted = Noted()
        compiled = djinn(model, options)
        with torch.no_grad():
            for _ in range(4):
                x = torch.randn(4, 16)
                torch.testing.assert_close(compiled(x), model(x))
        return noted

    with monkeypatch.context() as patch:
        patch.setattr(BoundRegion, "attempt", wrong)
        logging.getLogger("djinn_fx").setLevel(logging.ERROR)
        run()
        logging.getLogger("djinn_fx").setLevel(logging.NOTSET)
        assert len(answers) == 1  # tried once, and never again
        (folder,) = (tmp_path / "cache" / "repro").iterdir()
        assert main(["repro", str(folder)]) == 1
    # As a later process: the engine is not asked, although it would be right now.
    noted = run()
    assert ReasonKind.QUARANTINED in [reason.kind for reason in noted.reasons()]
    assert len(answers) == 3
    assert main(["repro", str(folder)]) == 0
    assert main(["repro", "--use-payload", str(folder)]) == 0
    assert "agrees" in capsys.readouterr().out
