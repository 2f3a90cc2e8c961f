"""Comparing text with a file in this folder. ``DJINN_UPDATE_GOLDEN=1`` writes the file instead."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
#: Read at import: the fixtures take the user's ``DJINN_*`` variables away.
UPDATE = os.environ.get("DJINN_UPDATE_GOLDEN") == "1"


def check_golden(name: str, text: str) -> None:
    """Fail with the difference if ``text`` is not what ``golden/<name>.txt`` holds."""
    file = FOLDER / f"{name}.txt"
    if UPDATE:
        file.write_text(text, encoding="utf-8")
        return
    expected = file.read_text(encoding="utf-8") if file.exists() else ""
    if text != expected:
        lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), "golden", "now", lineterm="")
        pytest.fail(f"{file.name} differs (DJINN_UPDATE_GOLDEN=1 accepts):\n" + "\n".join(lines), pytrace=False)
