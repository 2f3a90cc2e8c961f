"""Whether an ONNX runtime that is installed can be called as this package calls it: a small model is opened and run.

Releases move what was there before. Met here, that is an answer of ``capability()`` which names the version; met in a
user's model, it would be an engine that fails on every graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from djinn_fx.engines.bound.region import Session
from djinn_fx.errors import EngineError, useful_line
from djinn_fx.files.private import write_atomic
from djinn_fx.files.signing import seal, unseal
from djinn_fx.store.files import read_small
from djinn_fx.version import VERSION

#: The oldest and the newest release that the engines' tests were run with (`make test-oldest`, `make test-newest`).
#: The bounds in setup.py are these.
TRIED: dict[str, tuple[str, str]] = {
    "onnx": ("1.23", "1.23"),
    "onnxruntime": ("1.31", "1.32"),
    "openvino": ("2026.4", "2026.4"),
}

#: A note is a signature.
_NOTE_BYTES = 1000
#: More bytes than are written into a model: such weights are handed over as memory.
_SIZE = 40

#: As ``OnnxEngine.session``.
Opener = Callable[[bytes, Any, Mapping[int, torch.Tensor], str], Session]

#: By what was tried.
_ANSWERS: dict[str, str | None] = {}
#: Notes that were found or written.
_NOTES: set[Path | None] = set()


def problem(engine: str, versions: Mapping[str, str], open_session: Opener, folder: Path | None) -> str | None:
    """Why the runtime does not run a small model as it should; None if it does. Found out once.

    Args:
        engine: its name.
        versions: of the libraries it uses.
        open_session: opens a model.
        folder: where it is noted that it does: trying means importing libraries that may not be needed. That it does
            not is found out anew by each process: the remedy may not change a version.
    """
    told = json.dumps([engine, dict(versions), sys.version, platform.machine(), torch.__version__, VERSION])
    name = f"{engine}-runs-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    note = folder / name if folder is not None else None
    if told not in _ANSWERS:
        noted = note is not None and _noted(note)
        _ANSWERS[told] = None if noted else _asked(engine, versions, open_session)
        if noted:
            _NOTES.add(note)
    # The first process of all asks before there is a folder, and then again.
    if _ANSWERS[told] is None and note is not None and note not in _NOTES and note.parent.is_dir():
        _NOTES.add(note)
        with contextlib.suppress(OSError):
            write_atomic(note, [seal(name, True)], note.parent)
    return _ANSWERS[told]


def _noted(note: Path) -> bool:
    """Whether this user noted it: what somebody else put into the folder says nothing."""
    try:
        return unseal(note.name, read_small(note, _NOTE_BYTES)) is True
    except (OSError, ValueError):
        return False


def _asked(engine: str, versions: Mapping[str, str], open_session: Opener) -> str | None:
    failed: list[str | None] = []
    # In a thread of its own: who asks may be in the middle of tracing, and torch's modes belong to a thread.
    thread = threading.Thread(target=lambda: failed.append(_tried(engine, open_session)), name="djinn tries an engine")
    thread.start()
    thread.join()
    why = failed[0]
    if why is None:
        return None
    installed = " with ".join(f"{name} {version}" for name, version in versions.items())
    tried = ", ".join(f"{name} {_span(*TRIED[name])}" for name in versions if name in TRIED)
    remedy = f"pip install 'djinn-fx[{engine}]' installs one that was tried"
    return f"{installed} does not run a small model ({why}); tried were {tried}: {remedy}"


def _span(oldest: str, newest: str) -> str:
    return oldest if oldest == newest else f"{oldest} to {newest}"


def _tried(engine: str, open_session: Opener) -> str | None:
    try:
        with unset_fake_temporarily(), torch.no_grad():
            model, signature = _model(engine)
            weight, mask = torch.eye(_SIZE) * 2, torch.ones(_SIZE, _SIZE, dtype=torch.bool)
            weight.requires_grad_()
            session = open_session(model, signature, {1: weight, 2: mask}, "a small model")
            for rows in (3, 1):
                x = torch.ones(rows, _SIZE)
                product, inverted = session.run([x, weight, mask])
                if not torch.equal(product, x * 2) or not torch.equal(inverted, ~mask):
                    return "its answer is wrong"
    except EngineError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (whatever a library that moved makes of our calls: the capability tells it)
        return useful_line(error)
    return None


def _model(engine: str) -> tuple[bytes, Any]:
    """A product with a weight, and a mask turned round."""
    from djinn_fx.engines.bound.signature import Fed, Given, Signature
    from djinn_fx.engines.onnx.graph import GraphBuilder

    builder = GraphBuilder(engine)
    x = builder.input("x", torch.float32, (None, _SIZE), ("rows", None))
    weight = builder.input("weight", torch.float32, (_SIZE, _SIZE), ())
    mask = builder.input("mask", torch.bool, (_SIZE, _SIZE), ())
    builder.output(builder.op("MatMul", [x, weight]))
    builder.output(builder.op("Not", [mask]))
    signature = Signature(
        fed=(
            Fed(name="x", place=0, dtype="float32", sizes=(None, _SIZE)),
            Fed(name="weight", place=1, dtype="float32", sizes=(_SIZE, _SIZE)),
            Fed(name="mask", place=2, dtype="bool", sizes=(_SIZE, _SIZE)),
        ),
        results=(Given(output=0, dtype="float32"), Given(output=1, dtype="bool")),
        outputs=2,
    )
    return builder.finish()[0], signature
