"""``python -m djinn_fx.deploy``."""

from __future__ import annotations

import sys

from djinn_fx.deploy.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
