"""What a compiled model runs on now, and waiting until that is the best there is to be had."""

from __future__ import annotations

import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch._dynamo.eval_frame import innermost_fn
from torch.fx import GraphModule

from djinn_fx.compiling.deferred import DeferredGraph
from djinn_fx.dispatch.budget import Fitting, GraphNeed, Others, PlannedMemory, evict
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.contestants import ContestBySize
from djinn_fx.dispatch.entrant import CHANGED, OF_BUILDING, DispatchStatus, EntrantStatus, State
from djinn_fx.dispatch.lazy import LazyRegion
from djinn_fx.dispatch.standby import Standby
from djinn_fx.engines.bound.write_protection import table, why_not
from djinn_fx.errors import DjinnError
from djinn_fx.files.signing import why_alone
from djinn_fx.reasons import Reason
from djinn_fx.runtime.arena.arena import Arena, ArenaStatus
from djinn_fx.runtime.layouts import Strays
from djinn_fx.saved.contested import EnginesLater
from djinn_fx.store.ledger import told_of_caches
from djinn_fx.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from djinn_fx.remote.workers.client import WorkerStatus


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """A compiled model now.

    Attributes:
        graphs: how many graphs djinn was given for it.
        unplanned: how many of them still run as Dynamo made them.
        regions: the regions for which an engine was or is to be built in the background, one for all that are alike.
        reasons: why a graph stays as Dynamo made it.
        contests: the graphs for which several engines compete, and which of them answered last.
        unprotected: why writes into weights are not seen by write protection (docs/guard.md); None if they are.
        refused: a sentence for each graph or region that an engine which was asked for does not serve, and for each
            engine that takes no part in a graph which this process planned.
        caches: what this process does not use of the disk cache, because somebody else wrote it (docs/trust.md).
        relaid: values that came to a region with other strides than were traced, and so were copied.
        loading: how many graphs of an earlier process run on their own ops while their engines are loaded.
        arenas: where the values between regions of each graph lie, with the setting `arena`.
        memory: each graph's share of the setting `memory_budget`, as it was planned.
        lost: devices that graphs were planned anew without.
        workers: those that graphs are spread over: health, memory, bytes that went there (docs/remote_workers.md).
    """

    graphs: int
    unplanned: int
    regions: tuple[DispatchStatus, ...]
    reasons: tuple[Reason, ...] = ()
    contests: tuple[DispatchStatus, ...] = ()
    unprotected: str | None = None
    refused: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    relaid: tuple[Reason, ...] = ()
    loading: int = 0
    arenas: tuple[ArenaStatus, ...] = ()
    memory: tuple[PlannedMemory, ...] = ()
    lost: tuple[Reason, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether nothing is left to be planned or built: calls go to the best that runs here. False where a region is
        left to its own ops because every build for it failed. A trial between engines needs calls, it may go on."""
        preparing = any(one.state is State.PREPARING for contest in self.contests for one in contest.entrants)
        built = all(_settled(region.entrants) for region in self.regions)
        return not self.unplanned and not self.reasons and not self.loading and not preparing and built

    @property
    def counts(self) -> dict[str, int]:
        """How many (region, engine) pairs are in each state of being built; every one is named."""
        counts = Counter(one.state for region in self.regions for one in region.entrants)
        return {state.value: counts[state] for state in OF_BUILDING}

    def __str__(self) -> str:
        trials = sum(not contest.decided for contest in self.contests)
        trying = f"{trials} trial{'' if trials == 1 else 's'} under way" if trials else ""
        built = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        counts = ", ".join(filter(None, (built, trying))) or "nothing to build"
        waiting = f"; {self.unplanned} of {self.graphs} graphs not planned yet" if self.unplanned else ""
        waiting += f"; the engines of {self.loading} of {self.graphs} graphs are being loaded" if self.loading else ""
        lines = [f"{'ready' if self.ready else 'not ready'}: {counts}{waiting}"]
        lines += [f"  {_line(region)}" for region in self.regions]
        lines += [f"  {_line(one, _how(one))}" for one in self.contests]
        compared = f"compared with what was packed, in part: {self.unprotected}"
        lines.append(f"  weights are {'write-protected' if self.unprotected is None else compared}")
        lines += [f"  {sentence}" for sentence in self.refused]
        lines += [f"  cache: {one}" for one in self.caches]
        lines += [f"  {text}" for one in self.arenas for text in (one, *one.outside)]
        lines += [f"  memory, {one}" for one in self.memory]
        lines += [f"  {one}" for one in self.workers]
        return "\n".join([*lines, *(f"  {reason}" for reason in (*self.reasons, *self.relaid, *self.lost))])


def _settled(entrants: Sequence[EntrantStatus]) -> bool:
    """Whether an engine runs it and no better one may still come; or none failed, they only do not run here."""
    failed = False
    for one in entrants:
        if one.state is State.READY:
            return True
        if one.state is State.FAILED and one.retry_after_s is None:
            failed = True
        elif one.state is not State.BUILT_NOT_RUNNABLE:
            return False
    return not failed


def _how(contest: DispatchStatus) -> str:
    if contest.trial:
        return f", trial: {contest.trial}"
    return ", decided" if contest.decided else ", others are tried when they are ready"


def _line(now: DispatchStatus, how: str = "") -> str:
    times = f" x{now.repeats}" if now.repeats > 1 else ""
    return f"{now.label}{times} runs on {now.engine}{how}; {'; '.join(map(_told, now.entrants))}"


def _told(one: EntrantStatus) -> str:
    text = f"{one.engine} {one.state.value}"
    if one.median_s is not None:
        text += f" {format_seconds(one.median_s)}"
    if one.memory_bytes:
        text += f", {format_bytes(one.memory_bytes)} of packed weights"
    if one.rounding is not None:
        text += f", {one.rounding}"
    if one.pays_after_calls is not None:
        text += f", pays after {one.pays_after_calls} more calls"
    if one.retry_after_s is not None:
        text += f", tried again in {one.retry_after_s:.0f} s"
    if one.reason is not None:
        text += f" ({one.reason.detail})"
    return text


class GraphHandle:
    """Ties what is built for a graph to the model it came from, without keeping either alive.

    Args:
        gm: Dynamo's graph.
        weights: the parameters and buffers among its inputs. When their memory is gone, so is the model, and its builds
            are cancelled; the compiled code itself Dynamo may keep until it is reset.
        inputs: all that it is called with, in order.
    """

    def __init__(self, gm: GraphModule, weights: Sequence[torch.Tensor], inputs: Sequence[Any] = ()) -> None:
        self.backend_id = str(gm.meta.get("backend_id", ""))
        self.deferred: weakref.ref[DeferredGraph] | None = None
        self._regions: list[weakref.ref[LazyRegion]] = []
        self._contests: list[weakref.ref[Contest | ContestBySize | EnginesLater]] = []
        self._standbys: list[weakref.ref[Standby]] = []
        #: Sentences about engines that were asked for and refused when the graph was planned.
        self.refused: tuple[str, ...] = ()
        #: Devices that its graphs were planned anew without.
        self.lost: tuple[Reason, ...] = ()
        #: Tells of the workers that they are spread over.
        self.workers: Callable[[], tuple[WorkerStatus, ...]] = tuple
        self._strays: list[Strays] = []
        #: Of its graphs, those that have one.
        self.arenas: list[weakref.ref[Arena]] = []
        #: Of its graphs, under a budget.
        self.planned: list[PlannedMemory] = []
        # Not the tensors: torch.utils.swap_tensors refuses those that somebody refers to weakly.
        storages = {id(one): one for weight in weights if (one := _storage_of(weight)) is not None}
        self._weights = [weakref.ref(storage, self._one_is_gone) for storage in storages.values()]
        memories = [_storage_of(one) if isinstance(one, torch.Tensor) else None for one in inputs]
        #: The memory of each input, None for what has none.
        self.memories = [weakref.ref(one) if one is not None else None for one in memories]

    def _one_is_gone(self, _: Any) -> None:
        if all(ref() is None for ref in self._weights):
            for region in self.regions:
                region.cancel()

    def add(self, callables: Iterable[Any]) -> None:
        """Note the lazy ones, the contests and what stands by among a plan's callables, each once."""
        known = {id(region) for region in self.regions}
        for one in callables:
            if isinstance(one, LazyRegion) and id(one) not in known:
                known.add(id(one))
                self._regions.append(weakref.ref(one))
            elif isinstance(one, Standby):
                self._standbys.append(weakref.ref(one))
            elif isinstance(one, (Contest, ContestBySize, EnginesLater)):
                self._contests.append(weakref.ref(one))

    def strays(self) -> Strays:
        """What notes the values that come to one of its graphs with other strides than were traced."""
        self._strays.append(Strays())
        return self._strays[-1]

    @property
    def relaid(self) -> tuple[Reason, ...]:
        """Values that came with other strides than were traced."""
        return tuple(reason for strays in self._strays for reason in tuple(strays.reasons.values()))

    @property
    def contests(self) -> tuple[Contest, ...]:
        """The contests that are still alive."""
        alive = [one for ref in self._contests if (one := ref()) is not None]
        return tuple(contest for one in alive for contest in ([one] if isinstance(one, Contest) else one.distinct))

    @property
    def loaded(self) -> tuple[EnginesLater, ...]:
        """Graphs that came from an earlier process, those that are still alive."""
        alive = (ref() for ref in self._contests)
        return tuple(one for one in alive if isinstance(one, EnginesLater))

    @property
    def regions(self) -> tuple[LazyRegion, ...]:
        """Those that are still alive."""
        own = [region for ref in self._regions if (region := ref()) is not None]
        others = [region for ref in self._standbys if (one := ref()) is not None for region in one.regions]
        return tuple({id(region): region for region in (*own, *others)}.values())

    @property
    def pending(self) -> bool:
        """Whether something is being built or made ready."""
        return (
            any(one.pending for one in self.regions)
            or any(one.pending for one in self.contests)
            or any(one.loading for one in self.loaded)
        )

    def storages(self, device: str) -> dict[int, int]:
        """Bytes of the weights that are still there, by identity."""
        alive = [one for ref in self._weights if (one := ref()) is not None]
        return {id(one): one.nbytes() for one in alive if str(one.device) == device}

    def reads_any_of(self, storages: frozenset[int]) -> bool:
        """Whether an input of the graph lies in one of these storages, by identity."""
        return any(id(one) in storages for ref in self._weights if (one := ref()) is not None)

    @property
    def graph(self) -> DeferredGraph | None:
        """The deferred graph, if it was deferred and is alive."""
        return self.deferred() if self.deferred is not None else None


def _storage_of(weight: torch.Tensor) -> Any:
    """The object that stands for a weight's memory, the same one for as long as that lives; None if it has none."""
    try:
        return weight.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def others_of(handle: GraphHandle | None, need: GraphNeed) -> Others:
    """The other graphs of a graph's model: those that read some of its weights."""
    if handle is None:
        return Others(weights=need.weights)
    device = need.peak.device
    mine, planned = handle.storages(device), list[PlannedMemory]()
    every = dict(mine)
    for one in _family(handle):
        every.update(one.storages(device))
        planned += [each for each in one.planned if each.need.peak.device == device]
    return Others(weights=max(need.weights, sum(every.values())), planned=tuple(planned))


def note_planned(handle: GraphHandle | None, fitting: Fitting) -> PlannedMemory:
    """Put down a graph's share of the budget, and give it; copies that have no room beside it go."""
    planned = fitting.planned
    if handle is None:
        return planned
    if fitting.evicts:
        for one in _family(handle):
            evict(one.contests)
            one.planned = [replace(each, copies=0, engines=0) for each in one.planned]
    handle.planned.append(planned)
    return planned


def _family(handle: GraphHandle) -> list[GraphHandle]:
    """The handles of a graph's model, its own too."""
    mine = frozenset(id(one) for ref in handle._weights if (one := ref()) is not None)
    return [one for one in tuple(HANDLES) if one is handle or one.reads_any_of(mine)]


#: The graphs compiled in this process, the latest ones. Handles are small and keep nothing alive.
HANDLES: deque[GraphHandle] = deque(maxlen=4096)


def status(model: Callable[..., Any]) -> ModelStatus:
    """See :func:`djinn_fx.status`."""
    handles = handles_of(model)
    deferred = [graph for handle in handles if (graph := handle.graph) is not None]
    loaded = [one for handle in handles for one in handle.loaded]
    reasons = [*(one.reason for one in deferred), *(one.reason for one in loaded)]
    contests = tuple(contest.status() for handle in handles for contest in handle.contests)
    told = [sentence for handle in handles for sentence in handle.refused]
    return ModelStatus(
        graphs=len(handles),
        unplanned=sum(not graph.planned for graph in deferred),
        regions=tuple(region.status() for handle in handles for region in handle.regions),
        reasons=tuple(reason for reason in reasons if reason is not None),
        contests=contests,
        refused=tuple(dict.fromkeys((*told, *(one.refused for one in contests if one.refused is not None)))),
        unprotected=None if table() is not None else why_not(),
        caches=_caches(),
        relaid=tuple(reason for handle in handles for reason in handle.relaid),
        loading=sum(one.loading for one in loaded),
        memory=tuple(one for handle in handles for one in handle.planned),
        lost=tuple(dict.fromkeys(reason for handle in handles for reason in handle.lost)),
        workers=next(filter(None, (handle.workers() for handle in reversed(handles))), ()),
        arenas=tuple(one.status() for handle in handles for ref in handle.arenas if (one := ref()) is not None),
    )


def _caches() -> tuple[str, ...]:
    alone = why_alone()
    return (*told_of_caches(), *((alone.detail,) if alone is not None else ()))


def wait_until_ready(model: Callable[..., Any], timeout: float | None = None) -> ModelStatus:
    """See :func:`djinn_fx.wait_until_ready`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    handles = handles_of(model)
    if not handles:
        raise DjinnError("djinn has compiled nothing for this model yet: call it once, then wait")
    for handle in handles:
        graph = handle.graph
        if graph is not None:
            graph.plan()
        for contest in handle.contests:
            contest.summon(whether_or_not=True)
        for region in handle.regions:
            region.submit_all()
    with CHANGED:
        while any(handle.pending for handle in handles):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            CHANGED.wait(left)
    return status(model)


def handles_of(model: Callable[..., Any]) -> tuple[GraphHandle, ...]:
    """The graphs that were compiled for a model: those that read its parameters or buffers, or came from its code."""
    module = getattr(model, "_orig_mod", model)
    known = tuple(HANDLES)
    if isinstance(module, torch.nn.Module):
        weights = (*module.parameters(), *module.buffers())
        storages = [one for weight in weights if (one := _storage_of(weight)) is not None]
        found = tuple(handle for handle in known if handle.reads_any_of(frozenset(map(id, storages))))
        if found:
            return found
    function = innermost_fn(module.forward if isinstance(module, torch.nn.Module) else module)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return ()
    names = frozenset(_compiled_names(code, getattr(function, "__globals__", {}), set()))
    return tuple(handle for handle in known if handle.backend_id in names)


def _compiled_names(code: CodeType, namespace: dict[str, Any], seen: set[CodeType]) -> Iterator[str]:
    """The names under which Dynamo calls the graphs of a function, and of the pieces after its graph breaks."""
    from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list

    if code in seen:
        return
    seen.add(code)
    for entry in _debug_get_cache_entry_list(code):
        for name in entry.code.co_names:
            if name.startswith("__compiled_fn"):
                yield name
            elif name.startswith("__resume_at"):
                resumed = getattr(namespace.get(name), "__code__", None)
                if resumed is not None:
                    yield from _compiled_names(resumed, namespace, seen)
