"""The store that settings ask for."""

from __future__ import annotations

from pathlib import Path

import torch

from djinn_fx.reasons import Reason
from djinn_fx.settings.table import Settings
from djinn_fx.store.store import Store


def kept_folder(settings: Settings) -> Path | None:
    """The folder of the cache; None where the settings, or torch's own switch, say that nothing is kept."""
    return settings.cache_folder if settings.cache and not torch.compiler.config.force_disable_caches else None


def open_store(settings: Settings) -> tuple[Store | None, Reason | None]:
    """The disk cache these settings ask for; None, with the Reason if there is one, when there is to be none."""
    root = kept_folder(settings)
    if root is None:
        return None, None
    if settings.mega_cache:
        from djinn_fx.store.mega_cache import RecordingStore

        return RecordingStore.open(root, settings.cache_limit_bytes)
    return Store.open(root, settings.cache_limit_bytes)
