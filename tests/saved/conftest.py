"""Saving is a choice of its own where torch is older than 2.13 (docs/saved_functions.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch._dynamo.config


def saving() -> contextlib.AbstractContextManager[Any]:
    """Functions that are compiled here can be saved, with every torch."""
    if hasattr(torch._dynamo.config, "enable_aot_compile"):
        return torch._dynamo.config.patch(enable_aot_compile=True)
    return contextlib.nullcontext()


@pytest.fixture(autouse=True)
def _can_save() -> Iterator[None]:
    with saving():
        yield
