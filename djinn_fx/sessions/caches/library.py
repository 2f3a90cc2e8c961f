"""Transformers' modules, imported when a model of theirs is there: the package works without."""

from __future__ import annotations

import importlib
from typing import Any

from djinn_fx.errors import ModelFileError


def library(module: str = "cache_utils") -> Any:
    """A module of Transformers; untyped, for its classes are not the same in all versions.

    Raises:
        ModelFileError: it is not installed.
    """
    try:
        return importlib.import_module(f"transformers.{module}")
    except ModuleNotFoundError as error:
        raise ModelFileError("sessions need Transformers: pip install 'djinn-fx[transformers]'") from error
