"""The first calls of a graph run Dynamo's own graph; tracing it further waits until a call is repeated.

AOTAutograd and our passes take as long as Dynamo itself, seconds for a model of some depth. A graph that is called
once never pays for that. So where the user does not wait for compiled code (``compile`` is ``background`` or
``lazy``), the backend answers Dynamo at once with the graph as it is, and plans it on a later call, with the fake
inputs and the tracing context that Dynamo gave, under the grad and autocast state of the first call. What this must
not do is find out something Dynamo would have had to guard: then the plan is dropped and the graph stays as it is.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._guards import TracingContext, tracing
from torch.fx import GraphModule

from djinn_fx.compiling.entry.session import compile_session
from djinn_fx.costmodels.laws.build_time import PLAN_PER_OP_S
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.threads import new_rlock

log = logging.getLogger("djinn_fx")

Compiled = Callable[..., Any]
#: Plans and compiles a graph, given its inputs.
Compile = Callable[[GraphModule, Sequence[Any]], Compiled]


@dataclass(frozen=True, kw_only=True)
class _Ambient:
    """The switches of torch that decide what AOTAutograd traces; Dynamo guards them, so every call has the same."""

    grad: bool
    inference: bool
    autocast: tuple[tuple[str, torch.dtype], ...]

    @staticmethod
    def now() -> _Ambient:
        kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        return _Ambient(
            grad=torch.is_grad_enabled(),
            inference=torch.is_inference_mode_enabled(),
            autocast=tuple((kind, torch.get_autocast_dtype(kind)) for kind in kinds),
        )

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.grad))
            stack.enter_context(torch._C._DisableAutocast())
            for kind, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            yield


class DeferredGraph:
    """A graph that runs as Dynamo made it until it has been called often enough to be planned.

    Args:
        gm: Dynamo's graph.
        fakes: its fake inputs.
        compile: plans it.
        at_second_call: plan on the second call; else when calls have taken as long as planning is predicted to take
            (who rents until the rent paid equals the price pays at most twice what was needed).
    """

    def __init__(
        self, gm: GraphModule, fakes: Sequence[Any], context: TracingContext, compile: Compile, *, at_second_call: bool
    ) -> None:
        self._gm, self._fakes, self._context, self._compile = gm, tuple(fakes), context, compile
        self._at_second_call = at_second_call
        self._plan_s = PLAN_PER_OP_S * len(gm.graph.nodes)
        self._ambient = _Ambient.now()
        self._lock = new_rlock()
        self._compiled: Compiled | None = None
        self.calls = 0
        self.seconds = 0.0
        #: Why it was not planned, or not to the end.
        self.reason: Reason | None = None

    def __call__(self, *args: Any) -> Any:
        """Run the graph."""
        if self._compiled is not None:
            return self._compiled(*args)
        if self._due() and self._lock.acquire(blocking=False):  # another thread that plans is not waited for
            try:
                self.plan()
            finally:
                self._lock.release()
            return self(*args)
        start = time.perf_counter()
        result = self._gm.forward(*args)
        self.calls += 1
        self.seconds += time.perf_counter() - start
        return result

    @property
    def planned(self) -> bool:
        """Whether planning was done, well or not."""
        return self._compiled is not None

    @property
    def plan_after_s(self) -> float:
        """Seconds of calls until it is planned."""
        return 0.0 if self._at_second_call else max(0.0, self._plan_s - self.seconds)

    def _due(self) -> bool:
        return self.calls > 0 and self.plan_after_s == 0.0

    def plan(self) -> None:
        """Plan the graph now, and send calls to the result."""
        with self._lock:
            if self._compiled is None:
                self._compiled = self._planned()
                # The graph is Dynamo's and lives with its code; what only planning needed does not have to.
                self._fakes = ()

    def _planned(self) -> Compiled:
        known = self._facts()
        try:
            with compile_session(), tracing(self._context), self._ambient.restored():
                compiled = self._compile(self._gm, self._fakes)
        except EngineError:  # only raised where the settings say so
            raise
        except Exception as error:  # noqa: BLE001  (its Reason is kept and shown; the graph itself is always right)
            text = (str(error).strip().splitlines() or ["no message"])[0]
            return self._stays(f"it could not be planned: {type(error).__name__}: {text}")
        if self._facts() != known:
            return self._stays("planning relied on facts about the inputs that Dynamo had not guarded")
        return compiled

    def _facts(self) -> tuple[int, int]:
        """How much Dynamo would have to guard."""
        fake_mode = self._context.fake_mode
        shape_env = fake_mode.shape_env if fake_mode is not None else None
        return (
            len(shape_env.guards) + len(shape_env.replacements) if shape_env is not None else 0,
            len(self._context.guards_context.aotautograd_guards),
        )

    def _stays(self, why: str) -> Compiled:
        detail = f"the graph stays as Dynamo made it: {why}; options={{'compile': 'blocking'}} plans it in time"
        self.reason = Reason(kind=ReasonKind.FALLBACK, detail=detail)
        log.warning("%s", detail)
        forward: Compiled = self._gm.forward
        return forward


def deferrable(gm: GraphModule, example_inputs: Sequence[Any]) -> tuple[Any, ...] | None:
    """The fake inputs to plan a graph with later, or None if it has to be planned while Dynamo waits.

    Sizes that differ from call to call are such a case: planning may find facts about them that guard the graph.
    """
    if TracingContext.try_get() is None:
        return None
    fakes = [node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder")]
    if len(fakes) != len(example_inputs):
        return None
    return tuple(fakes) if all(_is_static(fake) for fake in fakes) else None


def _is_static(fake: Any) -> bool:
    from torch._subclasses import FakeTensor

    if isinstance(fake, FakeTensor):
        return not fake._has_symbolic_sizes_strides
    return isinstance(fake, (bool, int, float, str, type(None)))
