"""The store that settings ask for."""

from __future__ import annotations

import torch

from djinn_fx.reasons import Reason
from djinn_fx.settings.table import Settings
from djinn_fx.store.store import Store


def open_store(settings: Settings) -> tuple[Store | None, Reason | None]:
    """The disk cache these settings ask for; None, with the Reason if there is one, when there is to be none."""
    if not settings.cache or torch.compiler.config.force_disable_caches:
        return None, None
    root = settings.cache_folder
    if settings.mega_cache:
        from djinn_fx.store.mega_cache import RecordingStore

        return RecordingStore.open(root, settings.cache_limit_bytes)
    return Store.open(root, settings.cache_limit_bytes)
