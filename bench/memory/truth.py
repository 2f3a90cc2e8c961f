"""What a call really takes in memory: as ``explain`` measures it, so that both tell the same."""

from djinn_fx.calibrate.live_memory import Event, Truth, copied, measured

__all__ = ["Event", "Truth", "copied", "measured"]
