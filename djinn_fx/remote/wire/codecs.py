"""Codecs that make bytes smaller: lz4 and zstd where their libraries are installed, and whatever a user registers."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from djinn_fx.errors import EngineError, SettingsError, did_you_mean

_NAME = re.compile(r"[a-z][a-z0-9.-]{0,23}")


@dataclass(frozen=True)
class Codec:
    """A way to make bytes smaller and to have them back. Called from several threads.

    Attributes:
        name: by which frames name it: small letters, digits, dots and dashes.
        compress: bytes in, bytes out.
        decompress: what came from another machine, and how many bytes it must become: raises whatever it likes where it
            does not, and reserves no more memory than that.
    """

    name: str
    compress: Callable[[memoryview], bytes]
    decompress: Callable[[memoryview, int], bytes]


def register(codec: Codec) -> None:
    """Let frames be read, and written to who knows it too, that are packed by a codec of your own.

    Raises:
        SettingsError: the name is taken, or none.
    """
    if _NAME.fullmatch(codec.name) is None:
        raise SettingsError(f"a codec cannot be called {codec.name[:40]!r}: small letters, digits, dots and dashes")
    if codec.name in _OURS or codec.name in _REGISTERED:
        raise SettingsError(f"there is a codec {codec.name!r} already")
    _REGISTERED[codec.name] = codec


def known() -> tuple[str, ...]:
    """Names of the codecs that this side reads, which a peer must be told before it may use them."""
    return (*(name for name in _OURS if _installed(name) is not None), *_REGISTERED)


def codec_of(name: str) -> Codec:
    """The codec of that name.

    Raises:
        EngineError: there is none, or its library is not installed.
    """
    found = _REGISTERED.get(name) or (_installed(name) if name in _OURS else None)
    if found is not None:
        return found
    if name in _OURS:
        raise EngineError(f"a tensor packed by {name}, whose library is not installed: pip install 'djinn-fx[wire]'")
    names = known()
    hint = did_you_mean(name[:40], names)
    raise EngineError(f"a tensor packed by the unknown codec {name[:40]!r}{hint} (known: {', '.join(names) or 'none'})")


@functools.cache
def _installed(name: str) -> Codec | None:
    """One of ours; None without its library."""
    try:
        return _OURS[name]()
    except ImportError:
        return None


def _lz4() -> Codec:
    import lz4.block

    def compress(data: memoryview) -> bytes:
        made: bytes = lz4.block.compress(data, store_size=False)
        return made

    def decompress(data: memoryview, nbytes: int) -> bytes:
        made: bytes = lz4.block.decompress(data, uncompressed_size=nbytes)
        return made

    return Codec("lz4", compress, decompress)


def _zstd() -> Codec:
    import zstandard

    own = threading.local()  # its contexts are for one thread each

    def context(kind: str, make: Callable[[], Any]) -> Any:
        if kind not in own.__dict__:
            setattr(own, kind, make())
        return own.__dict__[kind]

    def compress(data: memoryview) -> bytes:
        made: bytes = context("compressor", functools.partial(zstandard.ZstdCompressor, level=1)).compress(data)
        return made

    def decompress(data: memoryview, nbytes: int) -> bytes:
        # The library reserves what the frame says, whatever bound it is given beside that.
        told = zstandard.frame_content_size(data)
        if told != nbytes:
            raise ValueError(f"it says that it becomes {told} bytes")
        made: bytes = context("decompressor", zstandard.ZstdDecompressor).decompress(data, max_output_size=nbytes)
        return made

    return Codec("zstd", compress, decompress)


_OURS: dict[str, Callable[[], Codec]] = {"lz4": _lz4, "zstd": _zstd}
_REGISTERED: dict[str, Codec] = {}


__all__ = ["Codec", "codec_of", "known", "register"]
