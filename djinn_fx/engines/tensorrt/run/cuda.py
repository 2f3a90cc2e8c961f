"""The CUDA side of a session, kept thin: TensorRT's runtime behind ``driver.Driver``.

Nothing in here can run without a GPU and its driver. What can be judged without one is in ``session`` and ``calling``.

Kernels that TensorRT for RTX compiles on the machine that runs a plan (its runtime cache) are kept in our store, as an
entry beside the plan's own: user-only, checksummed, evicted like any other. TensorRT itself checks that they fit the
GPU, the driver and its version, and takes none that do not.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

import torch

from djinn_fx.engines.tensorrt.building.flavour import Flavour
from djinn_fx.engines.tensorrt.building.messages import logger, messages
from djinn_fx.errors import EngineError
from djinn_fx.store.store import Store

log = logging.getLogger("djinn_fx.engines.tensorrt")

#: Raised when an entry with compiled kernels changes its meaning.
KERNELS_SCHEMA = 1


class CudaDriver:
    """TensorRT's runtime on this machine's GPUs.

    Args:
        flavour: which library.
        store: where compiled kernels are kept; None: nowhere.

    Raises:
        EngineError: the library does not load.
    """

    def __init__(self, flavour: Flavour, store: Store | None) -> None:
        try:
            self.trt = flavour.module
        except LookupError as error:
            raise EngineError(f"tensorrt: load: {error}") from error
        self.flavour, self.store = flavour, store
        self._runtime: Any = None
        self._lanes: dict[torch.device, Any] = {}
        self._lock = threading.Lock()

    def load(self, plan: bytes, device: torch.device) -> CudaPlan:
        """See ``Driver``."""
        with torch.cuda.device(device):
            runtime = self._made_runtime()
            self._refuse_invalid(runtime, plan)
            mark = messages(self.trt).mark()
            engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"tensorrt: load: {self.said(mark)}")
        return CudaPlan(self, engine, device, hashlib.sha256(plan).hexdigest())

    def stream(self, device: torch.device) -> int:
        """See ``Driver``."""
        return int(torch.cuda.current_stream(device).cuda_stream)

    def settle(self, device: torch.device) -> None:
        """See ``Driver``."""
        torch.cuda.synchronize(device)

    def lane(self, device: torch.device) -> Any:
        """A stream of ours that stands in for the default stream of a device."""
        with self._lock:
            if device not in self._lanes:
                self._lanes[device] = torch.cuda.Stream(device)
            return self._lanes[device]

    def said(self, mark: int) -> str:
        """TensorRT's errors since a mark, or that it gave none."""
        return "; ".join(messages(self.trt).errors(mark)) or "TensorRT refused and did not say why"

    def _made_runtime(self) -> Any:
        with self._lock:
            if self._runtime is None:
                self._runtime = self.trt.Runtime(logger(self.trt))
            if self._runtime is None:
                raise EngineError("tensorrt: load: TensorRT's runtime could not be made")
            return self._runtime

    def _refuse_invalid(self, runtime: Any, plan: bytes) -> None:
        """Ask TensorRT for RTX whether a plan can run here, before it is loaded; the other flavour says when loading.

        Raises:
            EngineError: with its diagnosis.
        """
        ask = getattr(runtime, "get_engine_validity", None)
        if ask is None:
            return
        validity, diagnosis = ask(plan)
        if validity == self.trt.EngineValidity.INVALID:
            known = self.trt.EngineInvalidityDiagnostics.__members__
            why = [name.lower().replace("_", " ") for name, bit in known.items() if int(bit) & int(diagnosis)]
            raise EngineError(f"tensorrt: load: the plan cannot run on this machine: {', '.join(why) or diagnosis}")


class CudaPlan:
    """A deserialised plan on one device; see ``Loaded``."""

    def __init__(self, driver: CudaDriver, engine: Any, device: torch.device, digest: str) -> None:
        self.driver, self.engine, self.device = driver, engine, device
        self.aliases: Mapping[str, str] = self._found_aliases()
        self._kernels = _Kernels(driver, digest, device)

    def tensors(self) -> Mapping[str, tuple[bool, str, tuple[int, ...]]]:
        """See ``Loaded``.

        Raises:
            EngineError: a tensor that TensorRT wants in the host's memory.
        """
        trt, engine = self.driver.trt, self.engine
        found = {}
        for place in range(engine.num_io_tensors):
            name = engine.get_tensor_name(place)
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise EngineError(f"tensorrt: load: {name} is to lie in the host's memory")
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            dtype = _torch_name(trt, engine.get_tensor_dtype(name))
            found[name] = (is_input, dtype, tuple(int(size) for size in engine.get_tensor_shape(name)))
        return found

    def context(self) -> CudaContext:
        """See ``Loaded``. Tried once more with torch's unused memory given back if there was too little."""
        mark = messages(self.driver.trt).mark()
        with torch.cuda.device(self.device):
            made = self._made_context()
            if made is None:
                torch.cuda.empty_cache()
                made = self._made_context()
        if made is None:
            raise EngineError(f"tensorrt: load: no execution context: {self.driver.said(mark)}")
        return CudaContext(self, made, self._kernels)

    def _made_context(self) -> Any:
        if not hasattr(self.engine, "create_runtime_config"):
            return self.engine.create_execution_context()
        config = self.engine.create_runtime_config()
        self._kernels.attach(config)
        return self.engine.create_execution_context(config)

    def _found_aliases(self) -> dict[str, str]:
        ask = getattr(self.engine, "get_aliased_input_tensor", None)
        if ask is None:
            return {}
        trt, engine = self.driver.trt, self.engine
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        return {name: source for name in outputs if (source := ask(name))}


class CudaContext:
    """One execution context; see ``Context``."""

    def __init__(self, plan: CudaPlan, context: Any, kernels: _Kernels) -> None:
        self._plan, self._context, self._kernels = plan, context, kernels
        self._fresh = True

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """See ``Context``."""
        mark = self._mark()
        if not self._context.set_input_shape(name, shape):
            raise EngineError(f"tensorrt: run: sizes {shape} for {name}: {self._plan.driver.said(mark)}")

    def set_address(self, name: str, address: int) -> None:
        """See ``Context``."""
        mark = self._mark()
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f"tensorrt: run: the address of {name}: {self._plan.driver.said(mark)}")

    def run(self, stream: int) -> None:
        """See ``Context``. On the default stream the work goes to a stream of ours, between two events."""
        driver, device, mark = self._plan.driver, self._plan.device, self._mark()
        with torch.cuda.device(device):
            if stream:
                done = self._context.execute_async_v3(stream)
            else:
                current, lane = torch.cuda.current_stream(device), driver.lane(device)
                lane.wait_stream(current)
                done = self._context.execute_async_v3(lane.cuda_stream)
                current.wait_stream(lane)
        if not done:
            raise EngineError(f"tensorrt: run: {driver.said(mark)}")
        if self._fresh:
            self._fresh = False
            self._kernels.keep_soon()

    def _mark(self) -> int:
        return messages(self._plan.driver.trt).mark()


class _Kernels:
    """What TensorRT for RTX compiled for one plan on one device, carried from process to process in the store."""

    def __init__(self, driver: CudaDriver, plan_digest: str, device: torch.device) -> None:
        self._store, self._label = driver.store, f"kernels of plan {plan_digest[:12]}"
        facts = [
            "tensorrt-kernels", str(KERNELS_SCHEMA), plan_digest, driver.flavour.name, driver.flavour.version,
            torch.cuda.get_device_name(device), str(torch.version.cuda),
        ]  # fmt: skip
        self._key = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self._cache: Any = None
        self._known = b""
        self._watched = False

    def attach(self, config: Any) -> None:
        """Give a runtime configuration the kernels there are; new ones are added to them as they are compiled."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            entry = self._store.get(self._key) if self._store is not None else None
            if entry is not None and self._cache.deserialize(entry.payload):
                self._known = entry.payload
            elif entry is not None:
                log.info("%s: compiled for another machine, not used", self._label)
        config.set_runtime_cache(self._cache)

    def keep_soon(self) -> None:
        """Write what the first run compiled, and once more at exit, for what is compiled in between."""
        self._keep()
        if not self._watched and self._cache is not None:
            self._watched = True
            atexit.register(self._keep)

    def _keep(self) -> None:
        if self._cache is None or self._store is None:
            return
        payload = bytes(self._cache.serialize() or b"")
        if payload and payload != self._known:
            header = {"schema": KERNELS_SCHEMA, "engine": "tensorrt-kernels", "label": self._label}
            if self._store.put(self._key, header, payload):
                self._known = payload


#: TensorRT's names of the element types torch has too.
_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "BOOL": "bool",
    "INT8": "int8",
    "UINT8": "uint8",
}


def _torch_name(trt: Any, dtype: Any) -> str:
    """Torch's name of TensorRT's element type; TensorRT's own where torch has none."""
    members = trt.DataType.__members__
    return next((ours for theirs, ours in _TYPES.items() if members.get(theirs) == dtype), str(dtype))
