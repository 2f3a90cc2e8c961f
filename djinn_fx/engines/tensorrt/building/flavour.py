"""Which TensorRT there is: `tensorrt` (data centre) and `tensorrt_rtx`, and what each can build and run.

Nothing here imports torch, and a library that is missing is an answer, not an exception.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

from djinn_fx.engines.tensorrt.building.trial import problem

#: Flavours in the order in which they are preferred, and what installs each.
FLAVOURS: dict[str, str] = {
    "tensorrt_rtx": "pip install --no-build-isolation tensorrt_rtx",
    "tensorrt": "pip install --extra-index-url https://pypi.nvidia.com tensorrt",
}


@dataclass(frozen=True, kw_only=True)
class TrtCapability:
    """What a flavour can do here.

    Attributes:
        version: of the library; "" where it is missing.
        can_build: plans can be built, on this machine, for ``targets``.
        can_run: there is a GPU with a driver to run plans on.
        why_not: what is missing and what to do about it; "" where nothing is.
        targets: what can be built for here: "sm89", … and "current" for the GPU that is present.
    """

    version: str = ""
    can_build: bool = False
    can_run: bool = False
    why_not: str = ""
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries, imported when first needed."""

    name: str

    @property
    def version(self) -> str:
        """Installed version, "" if it is not installed. Imports nothing."""
        if importlib.util.find_spec(self.name) is None:
            return ""
        for distribution in (self.name, self.name.replace("_", "-")):
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
        return str(getattr(self.module, "__version__", ""))

    @property
    def module(self) -> Any:
        """The library.

        Raises:
            LookupError: it is not installed or does not load; says what to do.
        """
        try:
            return importlib.import_module(self.name)
        except (ImportError, OSError, RuntimeError) as error:
            # The stub of data-centre TensorRT raises RuntimeError, a missing libnvinfer OSError.
            raise LookupError(f"{self.name} does not load ({error}); {FLAVOURS[self.name]}") from error

    def capability(self) -> TrtCapability:
        """What it can do on this machine. Imports the library; asks the driver, not torch."""
        if importlib.util.find_spec(self.name) is None:
            return TrtCapability(why_not=f"{self.name} is not installed; {FLAVOURS[self.name]}")
        try:
            trt = self.module
        except LookupError as error:
            return TrtCapability(why_not=str(error))
        moved = problem(self.name)
        if moved:
            return TrtCapability(version=str(trt.__version__), why_not=moved)
        gpu = gpu_problem()
        targets = list(_cross_targets(trt))
        if not gpu:
            targets.append("current")
        return TrtCapability(
            version=str(trt.__version__),
            can_build=bool(targets),
            can_run=not gpu,
            why_not=gpu if targets else f"{self.name} builds only for the GPU that is present, and {gpu}",
            targets=tuple(targets),
        )

    def why_not_target(self, target: str | None) -> str:
        """Why nothing can be built for a target here; "" if it can. None: the GPU that is present."""
        capability = self.capability()
        if not capability.targets:
            return capability.why_not
        if (target or "current") in capability.targets:
            return ""
        if target is None or target == "current":
            return f"without a target {self.name} builds for the GPU that is present, and {gpu_problem()}"
        if not _cross_targets(self.module):
            return (
                f"{self.name} builds only for the GPU that is present; tensorrt_rtx can build for {target} if it is RTX"
            )
        if target in ("sm90", "sm100", "sm103"):
            return (
                f"{self.name} {capability.version} has no target {target}: it is made for RTX cards; on such a GPU, "
                "data-centre TensorRT (the `tensorrt` package) builds for it"
            )
        return f"{self.name} {capability.version} has no target {target}; it has {', '.join(capability.targets)}"


def flavours() -> tuple[Flavour, ...]:
    """Both, whether installed or not."""
    return tuple(Flavour(name) for name in FLAVOURS)


def flavour(name: str | None = None) -> Flavour:
    """The flavour of that name; None: the first that can build here, else the first.

    Raises:
        LookupError: there is no such flavour.
    """
    if name is None:
        return next((one for one in flavours() if one.capability().can_build), flavours()[0])
    if name not in FLAVOURS:
        raise LookupError(f"no TensorRT named {name!r}; there are {', '.join(FLAVOURS)}")
    return Flavour(name)


def _cross_targets(trt: Any) -> tuple[str, ...]:
    """What a library can build for without having it: tensorrt_rtx's compute capabilities."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return tuple(name.lower() for name in members if name.startswith("SM"))


@functools.cache
def gpu_problem() -> str:
    """Why nothing can run on a GPU here; "" if it can. Asks the driver itself, without torch and without a context."""
    library = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return f"there is no NVIDIA driver here ({library} is missing)"
    code = cuda.cuInit(0)
    if code:
        return f"the NVIDIA driver does not start (cuInit gives {code})"
    count = ctypes.c_int()
    code = cuda.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        return "the NVIDIA driver sees no GPU"
    return ""
