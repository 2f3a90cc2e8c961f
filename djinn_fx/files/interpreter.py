"""A new interpreter that runs a function of this package: the one of this process, whatever is on the path there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What it runs. The package is found before anything of the path is, the current directory included.
_BOOT = """
import importlib, json, sys, typing
boot = json.loads(sys.argv[1])
try:
    sys.path[:] = [boot["home"], *boot["path"]]
    import djinn_fx
    sys.path[:] = boot["path"]
    module, _, name = boot["main"].partition(":")
    getattr(importlib.import_module(module), name)(boot["given"])
except Exception:
    if boot["failing"] is None:
        raise
    import os, traceback
    descriptor, told = boot["failing"]
    os.write(descriptor, json.dumps({**told, "tail": traceback.format_exc()[-4096:]}).encode() + b"\\n")
"""


def command(
    main: str,
    given: Any,
    path: Sequence[str],
    *,
    failing: tuple[int, Mapping[str, Any]] | None = None,
) -> list[str]:
    """The command line of a new interpreter.

    Args:
        main: "module:function", called with ``given``.
        given: a JSON value.
        path: of modules there; what is relative is left out.
        failing: where ``main`` cannot be had or raises, a descriptor that a line of JSON is written to, and what is in
            it besides ``tail``, the traceback; None: that goes to the standard error output.
    """
    boot = {
        "home": str(Path(__file__).absolute().parents[2]),
        # Nothing in the current directory can shadow a module.
        "path": list(dict.fromkeys(entry for entry in path if isinstance(entry, str) and os.path.isabs(entry))),
        "main": main,
        "given": given,
        "failing": failing,
    }
    flags = ["-I", *(["-B"] if sys.dont_write_bytecode else [])]
    # What -I makes the child ignore in the environment and what still matters to it.
    flags += ["-X", "utf8"] if sys.flags.utf8_mode else []
    flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []
    return [sys.executable, *flags, "-c", _BOOT, json.dumps(boot)]


__all__ = ["command"]
