"""Native kernels travel with their artefact, so that loading it compiles none of them where Inductor's folder is empty.

Inductor keeps the library of each C++ kernel in its own cache folder, often a temporary one, under a name made from the
source and the compiler's command line. Put there again under the same name, it is taken as if it had been built.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from djinn_fx.engines.inductor.folder import cache_folder

log = logging.getLogger("djinn_fx.engines.inductor")

_NAME = re.compile(r"[a-z0-9]{2}/[a-z0-9]{20,80}(\.main)?\.so")
_CALL = "async_compile.cpp_pybinding("


def loaded_modules() -> list[ModuleType]:
    """The modules of generated code that this process has loaded, in order; none if torch keeps them elsewhere."""
    from torch._inductor.codecache import PyCodeCache

    return list(getattr(PyCodeCache, "modules", ()))


def carried(modules: Sequence[ModuleType]) -> tuple[dict[str, Any], bytes]:
    """What to add to header and payload of an artefact made of these modules; nothing if a kernel is missing."""
    try:
        files = dict.fromkeys(path for module in modules for path in _libraries(module))
        contents = {str(path.relative_to(cache_folder())): path.read_bytes() for path in files}
    except (OSError, ValueError) as error:
        log.info("native kernels are not kept: %s", error)
        return {}, b""
    if not contents or not all(_NAME.fullmatch(name) for name in contents):
        return {}, b""
    sizes = [[name, len(content)] for name, content in contents.items()]
    return {"kernels": {"toolchain": toolchain(), "files": sizes}}, b"".join(contents.values())


def restored(header: Mapping[str, Any], payload: bytes) -> bytes:
    """The artefact's bytes without its kernels, which are put where Inductor looks for them.

    Raises:
        ValueError: header and payload do not fit each other.
    """
    kernels = header.get("kernels")
    if kernels is None:
        return payload
    start = len(payload) - sum(int(size) for _, size in kernels["files"])
    if start <= 0 or not all(_NAME.fullmatch(name) and size > 0 for name, size in kernels["files"]):
        raise ValueError("the list of native kernels does not fit the artefact")
    if kernels["toolchain"] == toolchain():
        end = start
        for name, size in kernels["files"]:
            end, begin = end + size, end
            _put(cache_folder() / name, payload[begin:end])
    return payload[:start]


@functools.cache
def toolchain() -> str:
    """What Inductor's names for kernels depend on besides the artefact's fingerprint: where things are installed."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        compiler = get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  (no compiler: kernels made with one have another name)
        compiler = f"none ({type(error).__name__})"
    places = "\n".join([str(torch.__path__[0]), sysconfig.get_path("include"), compiler])
    return hashlib.sha256(places.encode()).hexdigest()[:16]


def _libraries(module: ModuleType) -> list[Path]:
    """The libraries of a generated module's kernels.

    Raises:
        ValueError: not each of its kernels has one.
    """
    owners = [getattr(value, "__self__", None) for value in vars(module).values()]
    files = [Path(getattr(owner, "__file__", None) or "") for owner in owners if isinstance(owner, ModuleType)]
    found = [path for path in files if path.suffix == ".so" and path.is_relative_to(cache_folder())]
    wanted = Path(str(module.__file__)).read_text().count(_CALL)
    if len(found) != wanted:
        raise ValueError(f"{len(found)} libraries for {wanted} kernels")
    return found


def _put(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; it appears whole or not at all."""
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.chmod(file.name, 0o755)
        os.replace(file.name, path)
    except OSError as error:
        log.info("a native kernel cannot be put back, the compiler builds it: %s", error)
