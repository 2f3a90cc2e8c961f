"""Calling a function in a new Python process with cache directories of its own."""

from __future__ import annotations

import compileall
import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: A child never sees these variables: all sides run with the defaults, and with the caches they are given.
_CLEARED = ("DJINN_", "TORCHINDUCTOR_", "TORCH_COMPILE", "TORCHDYNAMO_", "TORCH_LOGS", "TORCH_TRACE")
#: Packages whose bytecode is to be there before a child starts.
_PACKAGES = ("djinn_fx", "passes", "costmodels", "bench")


class ChildFailedError(RuntimeError):
    """A child process raised or was killed; the message holds the end of its stderr."""


@dataclass(frozen=True, kw_only=True)
class Caches:
    """The cache directories a child uses.

    Attributes:
        djinn: ``DJINN_CACHE_DIR``.
        inductor: ``TORCHINDUCTOR_CACHE_DIR``.
        home: holds the working directory, the temporary files and the user configuration.
    """

    djinn: Path
    inductor: Path
    home: Path


@contextlib.contextmanager
def fresh_caches() -> Iterator[Caches]:
    """Empty cache directories, removed at the end."""
    _write_bytecode()
    with tempfile.TemporaryDirectory(prefix="djinn-bench-", ignore_cleanup_errors=True) as folder:
        yield Caches(djinn=Path(folder, "djinn"), inductor=Path(folder, "inductor"), home=Path(folder, "home"))


@functools.cache
def _write_bytecode() -> None:
    """As pip does for what it installs.

    Where PYTHONDONTWRITEBYTECODE is set, each process would compile the 220 files of a checkout that a first call needs
    (0.2 s), while all that is measured beside it is installed and has its bytecode.
    """
    for package in _PACKAGES:
        compileall.compile_dir(ROOT / package, quiet=2)


def call_child(
    function: str,
    arguments: Mapping[str, Any],
    caches: Caches,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 3600.0,
) -> Any:
    """Call a function in a new Python process.

    Args:
        function: ``"bench.module:name"``; arguments and result are JSON values.
        arguments: by keyword.
        caches: the directories the process compiles into, and the working directory, temporary files and user
            configuration it gets, so that nothing of this machine's user takes part.
        environment: more variables.
        timeout_s: after which the process is killed.

    Raises:
        ChildFailedError: it raised, was killed, or took too long.
    """
    work = caches.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="result-", dir=caches.home) as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, "-m", "bench.harness.children", function, json.dumps(dict(arguments)), str(result)]
        variables = child_environment(caches) | dict(environment or {})
        try:
            done = subprocess.run(
                command, cwd=work, env=variables, timeout=timeout_s, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ChildFailedError(f"{function} took longer than {timeout_s:.0f} s") from error
        if done.returncode != 0 or not result.exists():
            raise ChildFailedError(f"{function} ended with {done.returncode}:\n{done.stderr[-3000:].strip()}")
        return json.loads(result.read_text())


def child_environment(caches: Caches) -> dict[str, str]:
    """This process's environment without settings of compilers, and with these caches."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CLEARED)}
    temporary = caches.home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return kept | {
        "DJINN_CACHE_DIR": str(caches.djinn),
        "TORCHINDUCTOR_CACHE_DIR": str(caches.inductor),
        "TRITON_CACHE_DIR": str(caches.inductor / "triton"),
        "XDG_CONFIG_HOME": str(caches.home / "config"),
        "TMPDIR": str(temporary),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }


def _child(function: str, arguments: str, result: str) -> None:
    """The other end of :func:`call_child`."""
    module, _, name = function.partition(":")
    value = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    _child(*sys.argv[1:])
