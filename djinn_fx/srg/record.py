"""What the SRG knows about one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from djinn_fx.reasons import Reason


class Phase(str, Enum):
    """Which part of a model's work an op belongs to."""

    PREFILL = "prefill"
    DECODE = "decode"
    ENCODE = "encode"
    CROSS = "cross"
    FORWARD = "forward"
    BACKWARD = "backward"


class Modality(str, Enum):
    """What an encoder reads."""

    TEXT = "text"
    VISION = "vision"
    AUDIO = "audio"


class Residency(str, Enum):
    """What a value is, and so how long it stays in memory."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    STATE = "state"
    INPUT = "input"
    ACTIVATION = "activation"
    CONSTANT = "constant"


#: What stays in memory between calls.
RESIDENT = (Residency.PARAMETER, Residency.BUFFER, Residency.CONSTANT, Residency.STATE)


class GraphKind(str, Enum):
    """Which graph AOTAutograd handed over."""

    INFERENCE = "inference"
    FORWARD = "forward"
    BACKWARD = "backward"


#: A size or stride: a number, or the text of a symbolic expression such as ``"s0"`` or ``"2*s0"``.
Size = int | str


@dataclass(frozen=True, kw_only=True)
class TensorMeta:
    """One tensor value as known at compile time.

    Attributes:
        shape: sizes, outermost first; symbols as text.
        dtype: torch's name without the prefix, e.g. ``"float32"``.
        strides: in elements; empty for a layout without strides.
        device: device type and, where the tensor has one, index: ``"cpu"``, ``"cuda:0"``.
        layout: ``"strided"`` or torch's name of another layout.
        storage_offset: in elements.
        storage: values with the same number share memory (views); unique within one SRG.
        nbytes: elements times element size in bytes; a symbol counts with its hint (the example's size).
        is_symbolic: whether a symbol occurs in shape, strides or offset.
    """

    shape: tuple[Size, ...]
    dtype: str
    strides: tuple[Size, ...]
    device: str
    layout: str
    storage_offset: Size
    storage: int
    nbytes: int
    is_symbolic: bool

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an op, a region or a graph does. Additive; sizes in bytes, time in seconds.

    Attributes:
        flops: floating-point operations; a multiply-add counts as two (torch.utils.flop_counter's convention).
        read_bytes: bytes read from memory.
        write_bytes: bytes written to memory.
        time_s: estimated time in seconds on the device it was priced for.
        low_s: lower end of the time's 80 % interval; ends add as if all errors went the same way, so that the
            interval of a sum is never too narrow.
        high_s: its upper end.
        provenance: where the time comes from: ``datasheet``, ``calibrated``, ``learned``, ``measured``, ``mixed``
            or ``unpriced``.
    """

    flops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    time_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    provenance: str = "datasheet"

    def __add__(self, other: Cost) -> Cost:
        provenance = self.provenance if self.provenance == other.provenance else "mixed"
        return Cost(
            flops=self.flops + other.flops,
            read_bytes=self.read_bytes + other.read_bytes,
            write_bytes=self.write_bytes + other.write_bytes,
            time_s=self.time_s + other.time_s,
            low_s=self.low_s + other.low_s,
            high_s=self.high_s + other.high_s,
            provenance=provenance,
        )


def total(costs: Sequence[Cost]) -> Cost:
    """The sum of costs, one after the other; of none, the cost of nothing."""
    if not costs:
        return Cost()
    flops = read = write = 0
    time = low = high = 0.0
    for one in costs:
        flops += one.flops
        read += one.read_bytes
        write += one.write_bytes
        time += one.time_s
        low += one.low_s
        high += one.high_s
    kinds = {one.provenance for one in costs}
    return Cost(
        flops=flops,
        read_bytes=read,
        write_bytes=write,
        time_s=time,
        low_s=low,
        high_s=high,
        provenance=costs[0].provenance if len(kinds) == 1 else "mixed",
    )


@dataclass(frozen=True, kw_only=True)
class OpRecord:
    """Everything the SRG says about one node. Frozen: a pass replaces the whole record through the SRG.

    Attributes:
        op: qualified name of what is called, e.g. ``"aten.mm.default"``; the fx opcode for other nodes.
        outputs: the tensors the node produces, in order; empty for symbolic integers and the like.
        is_view: whether the value shares memory with one of the node's inputs.
        mutates: names of the input nodes whose memory the op writes.
        residency: what the value is.
        phase: part of the model's work; None until annotate-phase has run.
        modality: what an encoder part reads, if it is one.
        lifetime: half-open ``[start, end)`` in schedule positions; None until lifetimes has run.
        cost: None until estimate-cost has run.
        region: index of the region; None until find-regions has run, and for inputs and the output.
        device: where the op runs; None until place has run.
        source: the user's file:line, if known.
        reasons: why the fields above are as they are.
    """

    op: str
    outputs: tuple[TensorMeta, ...] = ()
    is_view: bool = False
    mutates: tuple[str, ...] = ()
    residency: Residency = Residency.ACTIVATION
    phase: Phase | None = None
    modality: Modality | None = None
    lifetime: tuple[int, int] | None = None
    cost: Cost | None = None
    region: int | None = None
    device: str | None = None
    source: str | None = None
    reasons: tuple[Reason, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all outputs together."""
        return sum(meta.nbytes for meta in self.outputs)
