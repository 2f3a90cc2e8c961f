"""Places in code, as a reader wants them."""

from __future__ import annotations

import re

_INSTALLED = re.compile(r"(?:/[^\s:'\"(),]+)?/site-packages/")


def without_way(text: str) -> str:
    """A text without the way to installed packages: ``torch/nn/modules/transformer.py:1245`` tells enough."""
    return _INSTALLED.sub("", text)
