"""Which codec a tensor is packed by on its way: the one that has it there first, or none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from djinn_fx.remote.wire.codecs import codec_of, known
from djinn_fx.remote.wire.packed import BLOCK_BYTES, compressed, packed_by
from djinn_fx.remote.wire.payload import Payload

#: Pieces that a codec is tried on, evenly spread, and their bytes.
_PIECES, _PIECE_BYTES = 4, 32 * 2**10
#: A trial may take this share of what the tensor takes on the way as it is.
_TRIAL_SHARE = 0.05
#: A trial that took longer met a busy moment.
_LONG_S = 1e-2
#: Packing must gain more than this share: the other machine may be slower than this one.
_MARGIN = 0.1


class Trial(NamedTuple):
    """What a codec made of a sample of a tensor.

    Attributes:
        share: bytes out for each byte in.
        pack_s: seconds for each byte to pack it.
        unpack_s: to unpack it.
    """

    share: float
    pack_s: float
    unpack_s: float


def trial(payload: Payload, name: str) -> Trial:
    """Try a codec on pieces of a payload."""
    codec, item, many = codec_of(name), payload.item_bytes, len(payload.data)
    size = min(_PIECE_BYTES, BLOCK_BYTES, many // item * item)
    starts = {(many - size) * piece // _PIECES // item * item for piece in range(_PIECES)}
    pieces = [payload.data[start : start + size] for start in sorted(starts)]
    began = time.perf_counter()
    made = [compressed(codec, piece, item) for piece in pieces]
    between = time.perf_counter()
    for one in made:
        codec.decompress(memoryview(one), size)
    ended = time.perf_counter()
    tried = len(pieces) * size
    share = sum(min(len(one), size) for one in made) / tried
    return Trial(share, (between - began) / tried, (ended - between) / tried)


class Packer:
    """Packs what is sent one way, where that is sooner there.

    Args:
        stream_s: seconds that so many bytes take on that way: ``stream_s`` of a topology's link, ``time_s`` of a route.
        peer: codecs that the other side knows; an older one knows none.
        tried: what a codec makes of a payload.
    """

    def __init__(
        self,
        stream_s: Callable[[int], float],
        peer: Sequence[str],
        *,
        tried: Callable[[Payload, str], Trial] = trial,
    ) -> None:
        self._stream_s, self._tried = stream_s, tried
        own = known()
        self._names = tuple(name for name in own if name in peer)
        #: What one trial took last.
        self._trial_s = 1e-3
        #: Payloads by codec, "" for those that went as they are.
        self.counts: Counter[str] = Counter()
        #: Bytes of those that were packed, as they were and as they went.
        self.before = self.after = 0

    def pack(self, payload: Payload) -> Payload:
        """The payload as it is to be sent."""
        name = self.chosen(payload)
        found = payload if name is None else packed_by(payload, name)
        self.counts[found.codec or ""] += 1
        if found is not payload:
            self.before, self.after = self.before + payload.nbytes, self.after + found.nbytes
        return found

    def chosen(self, payload: Payload) -> str | None:
        """The codec by which the payload is there first; None: it is as it is, or trying would take too long."""
        nbytes = len(payload.data)
        plain_s = self._stream_s(nbytes)
        if payload.codec is not None or self._trial_s * len(self._names) > _TRIAL_SHARE * plain_s:
            return None
        found: dict[str, float] = {}
        began = time.perf_counter()
        for name in self._names:
            one = self._tried(payload, name)
            found[name] = self._stream_s(int(nbytes * one.share)) + nbytes * (one.pack_s + one.unpack_s)
        if not found:
            return None
        self._trial_s = min(_LONG_S, (time.perf_counter() - began) / len(found))
        best = min(found, key=lambda name: found[name])
        return best if found[best] < (1 - _MARGIN) * plain_s else None


__all__ = ["Packer", "Trial", "trial"]
