"""Which engines want a graph in one piece."""

from __future__ import annotations

from djinn_fx.engines.registry import engine
from djinn_fx.settings.engines import BOUND, WHOLE
from djinn_fx.settings.table import Settings
from djinn_fx.srg.record import GraphKind


def contenders(settings: Settings, kind: GraphKind, device: str) -> tuple[str, ...]:
    """The engines of :data:`BOUND` that the settings want for such a graph and that are installed.

    An engine that the settings name is in even if its library is missing: that is then said.
    """
    if kind is not GraphKind.INFERENCE or not device.startswith("cpu"):
        return ()
    if settings.engine == "auto":
        return tuple(name for name in WHOLE if engine(name, settings).capability().can_run)
    return tuple(name for name in settings.engines if name in BOUND)
