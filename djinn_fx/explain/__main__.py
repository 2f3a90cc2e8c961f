"""``python -m djinn_fx.explain``."""

from __future__ import annotations

import sys

from djinn_fx.explain.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
