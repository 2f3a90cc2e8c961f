"""Writes constraints.txt from what is installed in this environment.

Lines for older Pythons (``python_version < "3.11"``) stay as they are: what they name is resolved there.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

FILE = Path(__file__).parent.parent / "constraints.txt"
#: Pinned by the Makefile, or no part of the tested environment.
LEFT_OUT = frozenset({"torch", "triton", "pip", "djinn-fx"})
#: What torch's CUDA build brings: torch pins it.
CUDA = ("nvidia-", "cuda-")


def main() -> None:
    """See the module's text."""
    lines = FILE.read_text("utf-8").splitlines() if FILE.exists() else []
    comments = [line for line in lines if line.startswith("#")]
    older = {line.split("==")[0]: line for line in lines if "python_version <" in line}
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", str(one.metadata["Name"])).lower()
        if name in LEFT_OUT or name.startswith(CUDA):
            continue
        marker = ' ; python_version >= "3.11"' if name in older else ""
        found[name] = f"{name}=={one.version}{marker}"
    pins = [*found.values(), *older.values()]
    FILE.write_text("\n".join([*comments, *sorted(pins)]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
