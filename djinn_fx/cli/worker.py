"""``djinn worker NAME``: all that one worker on a Ray tells of itself."""

from __future__ import annotations

from djinn_fx.cli.workers import main_of_one as main

__all__ = ["main"]
