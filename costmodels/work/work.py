"""What an op does, apart from any machine: operations by kind, bytes by kind, and the sizes its speed depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Sorts of work whose speed follows one law each. ``view`` and ``free`` do nothing but may cost a call in eager.
KINDS = (
    "matmul",
    "conv",
    "attention",
    "norm",
    "softmax",
    "elementwise",
    "reduction",
    "scan",
    "sort",
    "gather",
    "scatter",
    "copy",
    "fill",
    "random",
    "pool",
    "resample",
    "fft",
    "collective",
    "other",
    "view",
    "free",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one op does. Sizes in bytes; a multiply-add is two operations (torch.utils.flop_counter's convention).

    Attributes:
        op: packet name, e.g. ``"aten.addmm"``.
        kind: one of :data:`KINDS`.
        dtype: of the arithmetic: of the first floating-point tensor read, else of the output; torch's name.
        matmul_flops: multiply-adds of contractions, convolutions and attention.
        vector_flops: additions, multiplications, comparisons, divisions.
        special_flops: calls of exp, tanh, erf, sqrt, sin and the like, one each.
        weight_bytes: parameters and buffers read.
        read_bytes: everything else read, a broadcast operand once.
        write_bytes: memory written.
        strided_bytes: part of the bytes above that is not contiguous in memory.
        gather_bytes: part of the bytes above at addresses that only the data tell.
        elements: elements of the largest tensor read or written.
        sides: matmul (batch, m, n, k); conv (batch, out channels, in channels a group, groups, output positions,
            kernel positions); attention (batch, heads, key heads, query length, key length, head size, value size);
            norm, softmax, reduction, scan, sort (rows, length); else empty.
        problem: why the op is unpriced; None if a rule was found.
    """

    op: str
    kind: str
    dtype: str = "float32"
    matmul_flops: int = 0
    vector_flops: int = 0
    special_flops: int = 0
    weight_bytes: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    strided_bytes: int = 0
    gather_bytes: int = 0
    elements: int = 0
    sides: tuple[int, ...] = ()
    problem: str | None = None

    @property
    def flops(self) -> int:
        """Operations of all kinds."""
        return self.matmul_flops + self.vector_flops + self.special_flops

    @property
    def nbytes(self) -> int:
        """Bytes read and written."""
        return self.weight_bytes + self.read_bytes + self.write_bytes

    @property
    def costs_nothing(self) -> bool:
        """Whether the op moves and computes nothing."""
        return self.kind in ("view", "free")


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """One value that an op reads.

    Attributes:
        producer: index of the op in the graph that made it, looking through views; -1 from outside.
        nbytes: bytes read of it.
        is_weight: whether it is a parameter or a buffer.
    """

    producer: int
    nbytes: int
    is_weight: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkGraph:
    """The work of a region or graph and how values flow in it: all that a time model needs. No torch objects.

    Attributes:
        ops: in an order in which they can run, views and free ops included.
        reads: for each op, what it reads.
        escapes: for each op, whether its value is read outside (or is a graph output, or is written in place).
        names: node names, for reports; may be empty.
    """

    ops: tuple[Work, ...]
    reads: tuple[tuple[Read, ...], ...]
    escapes: tuple[bool, ...]
    names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Work]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)

    def to_json(self) -> dict[str, Any]:
        """Plain data; inverse of :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkGraph:
        """The graph behind :meth:`to_json`'s data.

        Raises:
            KeyError, TypeError: not such data.
        """
        return cls(
            ops=tuple(Work(**{**op, "sides": tuple(op["sides"])}) for op in data["ops"]),
            reads=tuple(tuple(Read(**read) for read in reads) for reads in data["reads"]),
            escapes=tuple(map(bool, data["escapes"])),
            names=tuple(data["names"]),
        )


#: The fields of a :class:`Work` that add up over ops.
SUMMED = (
    "matmul_flops",
    "vector_flops",
    "special_flops",
    "weight_bytes",
    "read_bytes",
    "write_bytes",
    "strided_bytes",
    "gather_bytes",
)


def total(works: Sequence[Work]) -> Work:
    """Sums over ops, as one Work of kind ``other``."""
    sums = {name: sum(getattr(work, name) for work in works) for name in SUMMED}
    return Work(op="total", kind="other", **sums)
