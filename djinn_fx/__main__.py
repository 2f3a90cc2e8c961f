"""``python -m djinn_fx``: the same as the command ``djinn``."""

from __future__ import annotations

import sys

from djinn_fx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
