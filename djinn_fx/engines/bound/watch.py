"""Noticing that weights have changed, cheaply enough to ask before every call.

An engine that keeps a packed copy of weights must know when the copy is stale. Torch has no event for that, so compared
are:

* where each weight's memory is (``weight.data = other``);
* vectors and small matrices, and of large ones what lies on pages that they share with others: in full;
* the rest of large ones: whole pages, of which the kernel tells whether they were written (``write_protection.py``);
* files that private mappings show (safetensors): inode, size and time of the last write.

Where the kernel cannot tell, large weights are compared by torch's version counter (every in-place operation counts),
by a few probed places (a merge through ``weight.data``), and a part of their memory is read on each call, by turns
(``rotation.py``). What then could change without a trace, because it has no counter (tensors made in inference mode),
is not to be copied at all; nor, on any kernel, is memory that other processes can write to.

Other sizes or strides over the same memory are not looked for: Dynamo guards those of what it hands over.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from djinn_fx.engines.bound import filed, write_protection
from djinn_fx.engines.bound.holders import Holders, extent_of
from djinn_fx.engines.bound.mappings import Mappings, Span, files_under, state_of
from djinn_fx.engines.bound.rotation import Rotation, view_of
from djinn_fx.engines.bound.userfaultfd import PAGE

#: A weight of fewer whole pages than this is compared in full: that costs less than asking the kernel.
MIN_PAGES = 8
#: Bytes read at each probed place of a weight that is not protected.
PROBE_BYTES = 64
#: In each stretch of this many bytes one byte is read before the kernel is asked: pages that were taken away whole
#: (MADV_DONTNEED) come back by that, and the kernel says so.
_STEP = 2 << 20

_DATA_PTR: Any = torch.Tensor.data_ptr
_VERSION: Any = operator.attrgetter("_version")


def picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A fast function that takes the elements at these places out of a list."""
    if len(places) > 1:
        return operator.itemgetter(*places)
    return lambda values: [values[place] for place in places]


def addresses(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Where the tensors' memory is: tells one set of weights from another."""
    return tuple(map(_DATA_PTR, tensors))


class Watch:
    """The weights of one call as they were, to be compared with those of later calls.

    Keeps the weights' memory alive, so that an address means the same weight for as long as the watch lives. Keeps no
    reference to the tensors themselves.

    Args:
        weights: dense tensors on the CPU.
        insist: watch as well as can be what may change without a trace, too.

    Attributes:
        kept: tensors over the weights' memory: what an engine may share memory with.
        addresses: of the weights.
        untraceable: why a weight may change without a trace; None if none may.
    """

    def __init__(self, weights: Sequence[torch.Tensor], insist: bool = True) -> None:
        self._in_files, self._forget = False, filed.forget  # the module may be gone when the interpreter ends
        self._holders = Holders(weights)
        # Where a weight lies is asked once: its tensor may be given other memory while this goes on.
        self.kept = self._holders.lent
        self.addresses = addresses(self.kept)
        extents = [extent_of(weight) for weight in self.kept]
        pages = [_whole_pages(extent) for extent in extents]
        large = [place for place, (start, end) in enumerate(pages) if end - start >= MIN_PAGES * PAGE]
        mappings = Mappings(extent for extent in extents if extent[0] < extent[1])
        self._in_files = any(one.file for one in mappings.known)
        self._files = [(path, state_of(path)) for path in files_under(mappings)]
        # Before anything is read: what is written from here on is seen.
        with filed.present([pages[place] for place in large], mappings):
            self._watcher = _protected([pages[place] for place in large], mappings)
        bare = [place for place in large if self._watcher is None or pages[place] in self._watcher.refused]
        self.untraceable = _untraceable(weights, extents, mappings, bare)
        counted = [place for place in bare if not weights[place].is_inference()]
        self._counted = picker(counted) if counted else None
        self._versions = [weights[place]._version for place in counted]
        self._rotation = Rotation([extents[place] for place in bare] if insist or not self.untraceable else [])
        unprotected = set(bare)
        self._views = [
            view_of(span)
            for place, extent in enumerate(extents)
            for span in _compared(extent, pages[place] if place in large else None, place in unprotected, mappings)
        ]
        self._seen = b"".join(self._views)

    def holds(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these are the watched weights, unchanged as far as can be seen."""
        return addresses(weights) == self.addresses and self.unchanged(weights)

    def unchanged(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether weights at the watched addresses are as they were, as far as can be seen."""
        begun = time.perf_counter()
        if self._counted is not None:
            try:
                if list(map(_VERSION, self._counted(weights))) != self._versions:
                    return False
            except RuntimeError:  # a tensor of inference mode over the same memory: it has no counter
                return False
        if b"".join(self._views) != self._seen:
            return False
        if self._watcher is not None and self._watcher.written():
            return False
        if self._files and any(state_of(path) != state for path, state in self._files):
            return False
        return self._rotation.unchanged(time.perf_counter() - begun)

    @property
    def rotates(self) -> bool:
        """Whether it reads a part of the weights on each call, and so wants to be told what calls take."""
        return self._rotation.any

    def spent(self, seconds: float) -> None:
        """A call took so long."""
        self._rotation.spent(seconds)

    @property
    def watched(self) -> Sequence[torch.Tensor]:
        """The weights' memory with their own counts of writes, to ask :meth:`unchanged` with no weights at hand."""
        return self._holders.held

    # Weights that nobody else has any more

    @property
    def orphaned(self) -> bool:
        """Whether nobody but engines holds the memory of some weight: then no call can bring these weights again."""
        return self._holders.gone

    def __del__(self) -> None:
        if self._in_files:  # they may be the last to hold them
            self._forget(self._holders)


def _whole_pages(extent: Span) -> Span:
    """The pages that hold nothing else."""
    start, end = -(-extent[0] // PAGE) * PAGE, extent[1] // PAGE * PAGE
    return start, max(start, end)


def _protected(pages: Sequence[Span], mappings: Mappings) -> write_protection.Watcher | None:
    table = write_protection.table() if pages else None
    return table.watch(pages, mappings.one) if table is not None else None


def _untraceable(
    weights: Sequence[torch.Tensor], extents: Sequence[Span], mappings: Mappings, bare: Sequence[int]
) -> str | None:
    if any(mappings.shared(extent) for extent in extents if extent[0] < extent[1]):
        return "other processes can write to their memory"
    if any(weights[place].is_inference() for place in bare):
        return "tensors made in inference mode count no writes"
    return None


def _compared(extent: Span, pages: Span | None, bare: bool, mappings: Mappings) -> Iterator[Span]:
    """What of a weight is compared on each call.

    Args:
        extent: its memory.
        pages: those of a large weight that hold nothing else; None for a small one.
        bare: whether the kernel does not watch these pages.
        mappings: that it lies on.
    """
    start, end = extent
    if start == end:
        return
    if pages is None:
        yield extent
    elif bare:
        middle = (start + end - PROBE_BYTES) // 2
        yield from ((at, at + PROBE_BYTES) for at in (start, middle, end - PROBE_BYTES))
    else:
        yield from (span for span in ((start, pages[0]), (pages[1], end)) if span[0] < span[1])
        # Pages of a file that are taken away come back as they were, and are left where they are (``filed.py``).
        if not all(one.file for one in mappings.over(pages)):
            yield from ((at, at + 1) for at in (*range(pages[0], pages[1], _STEP), pages[1] - 1))
