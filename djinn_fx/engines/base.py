"""The contract every engine keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch.fx import GraphModule

from djinn_fx.reasons import Reason

#: Takes the region's inputs as a list it may clear, returns the region's outputs as a list or tuple.
RegionCallable = Callable[[list[Any]], Sequence[Any]]


#: In an artefact's header: bytes that a call takes beside its arguments, at the sizes it was built for.
LIVE_BYTES = "live_bytes"


class Arguments(list[Any]):
    """A call's arguments, with memory into which its results may be written. Who copies the list drops the offer.

    Attributes:
        into: by place of the result, a tensor without elements, or as an earlier call left it, whose storage is as
            large as the result's. Nothing else lies there, and nobody is hurt if it is left alone.
    """

    __slots__ = ("into",)

    def __init__(self, given: Iterable[Any], into: Mapping[int, Any]) -> None:
        super().__init__(given)
        self.into = into


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How far an answer is from the same in float64: the largest difference as a share of the largest number.

    Attributes:
        share: of the engine's answer, of the result in which it is largest.
        eager: of eager's answer to the same, in that result.
    """

    share: float
    eager: float

    def __str__(self) -> str:
        return f"off float64 by {self.share:.1g} of the largest number, eager by {self.eager:.1g}"


class Runner:
    """What answers calls of a region, and what others may ask of it. A ``RegionCallable``.

    The defaults are those of something that serves every call and keeps nothing: a plain function is one by
    :func:`as_runner`.

    Attributes:
        accepts: says whether a call with these arguments is for it; None: all are.
        mutated: places of the arguments that a call writes into; empty where it does not know.
        partial: whether it may be unable to serve as things are: then ``attempt`` and ``prepare`` are to be asked.
        wants_reference: whether the region's own ops must stand beside it, for calls it does not accept and to compare.
        double_in_single: whether it computes double precision in single.
        label: for messages.
        compared: how many calls took eager's time too, since their answers were compared.
        compared_s: seconds of the engine alone in the latest of these; None: not known.
        trusted: whom callers may go to directly, if none of its answers will ever be compared.
        unsure: what it takes is known once it has run again, with nothing beside it.
        memory_bytes: of the copies of weights it holds.
        shares_copies: whether these copies are those of other graphs over the weights, where its engine's may be.
        rounding: how far its answers are from float64's, where it may round and that was measured.
    """

    accepts: Callable[[Sequence[Any]], bool] | None = None
    mutated: tuple[int, ...] = ()
    partial: bool = False
    wants_reference: bool = False
    double_in_single: bool = False
    label: str = ""
    compared: int = 0
    compared_s: float | None = None
    trusted: Runner | None = None
    rounding: Rounding | None = None
    unsure: bool = False
    shares_copies: bool = True

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Answer a call; empties the list.

        Raises:
            EngineError: it failed; nothing was written and the list is as it was.
            Declined: these values are not for it; likewise.
        """
        raise NotImplementedError

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        """Answer, or None with the arguments untouched if it cannot as things are."""
        return self(args)

    def prepare(self, args: Sequence[Any]) -> Callable[[], None] | None:
        """The work after which :meth:`attempt` serves these arguments; None if it does now."""
        return None

    def rehearsal(self, args: Sequence[Any]) -> Callable[[], None] | None:
        """The work, for another thread, after which answers to such calls are believed; None if there is none to do.

        It is to be done once ``prepare`` leaves nothing to do. It holds the weights among the arguments, and copies of
        the others.
        """
        return None

    def release(self) -> None:
        """Let go of copies of weights. A call that needs one makes it anew."""

    @property
    def memory_bytes(self) -> int:
        """See the class."""
        return 0

    @property
    def direct(self) -> RegionCallable:
        """The callable to go to where nothing is to be asked."""
        return self


class _Plain(Runner):
    """A function that serves every call."""

    def __init__(self, run: RegionCallable) -> None:
        self._run = run

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        return self._run(args)

    @property
    def direct(self) -> RegionCallable:
        return self._run


def as_runner(run: RegionCallable) -> Runner:
    """A callable as a runner."""
    return run if isinstance(run, Runner) else _Plain(run)


class Declined(Exception):
    """What an engine says to a call whose values it would not compute as torch does; the text says which.

    Nothing was written and the arguments are as they were, so the region's own ops answer. It says nothing against the
    engine: the next call may be one that it serves.

    Attributes:
        answer: that of the region's own ops, where they have answered already; then the arguments are used up.
    """

    def __init__(self, why: str, answer: Sequence[Any] | None = None) -> None:
        super().__init__(why)
        self.answer = answer


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What an engine can do on this machine.

    Attributes:
        can_build: it can compile regions here.
        can_run: it can run what it compiled here.
        versions: of the libraries it uses.
        why_not: why one of the two is False, and what to install.
    """

    can_build: bool
    can_run: bool
    versions: Mapping[str, str] = field(default_factory=dict)
    why_not: str | None = None


@dataclass(frozen=True, kw_only=True)
class RegionGraph:
    """A region cut out of its graph, ready for an engine.

    Attributes:
        gm: placeholders in the order of ``inputs``; returns a tuple in the order of the region's outputs.
        structural_hash: see :mod:`djinn_fx.srg.form.hashing`; empty if the region has no canonical form.
        canonical: the canonical form itself, a JSON value; None if there is none.
        example_inputs: fake tensors, SymInts and numbers, one per placeholder.
        label: for messages.
        kind: ``"inference"``, ``"forward"`` or ``"backward"``.
        weights: places of the inputs that are parameters, buffers or constants, and are not written by the graph.
    """

    gm: GraphModule
    structural_hash: str
    canonical: Any
    example_inputs: tuple[Any, ...]
    label: str
    kind: str
    weights: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What an engine made of a region.

    Attributes:
        header: JSON object that describes it (see ``Store``).
        payload: the bytes to keep on disk; None if this artefact cannot be kept.
        ready: the callable, if compiling already made it.
    """

    header: Mapping[str, Any]
    payload: bytes | None
    ready: RegionCallable | None = None


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a child process needs to build a region.

    Attributes:
        worker: name of the builder, see ``pool.jobs.WORKERS``.
        request: a JSON object for it.
        blobs: bytes that go with it.
        identity: what the artefact's key holds in the place of the region's structural hash; None for that hash.
            Regions of different graphs, or traced for different devices, may be the same to an engine.
        memory_bytes: predicted peak memory of the build.
        timeout_s: how long the build may take.
    """

    worker: str
    request: Mapping[str, Any]
    blobs: tuple[bytes, ...] = ()
    identity: str | None = None
    memory_bytes: int = 0
    timeout_s: float = 600.0


class Engine(Protocol):
    """A way to run a region. What kind of engine it is stands in :data:`djinn_fx.settings.engines.TRAITS`.

    What it loads is a function that serves every call, or a :class:`Runner`.
    """

    name: str

    def capability(self) -> Capability:
        """What the engine can do here."""
        ...

    def supports(self, region: RegionGraph) -> Reason | None:
        """None if the engine can take the region, else why not."""
        ...

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        """Compile a region, in this process, while the caller waits.

        Args:
            region: what to compile.
            alone: somebody else seems to be stuck building it: wait for no lock of the engine's own.

        Raises:
            EngineError: what failed, at which node.
        """
        ...

    def request(self, region: RegionGraph) -> BuildRequest | Reason:
        """What a child process needs to compile the region, or why it can only be done in this process."""
        ...

    def load(self, artefact: Artefact) -> RegionCallable:
        """Make a stored artefact callable.

        Raises:
            EngineError: the artefact does not fit this engine or machine.
        """
        ...

    def fingerprint(self) -> Mapping[str, str]:
        """Everything besides the region that the artefact depends on: versions, hardware, flags."""
        ...
