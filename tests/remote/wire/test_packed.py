"""Packed tensors come back as they were, and nothing large is reserved on a packed one's word."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import EngineError, SettingsError
from djinn_fx.remote.wire import codecs
from djinn_fx.remote.wire.choice import Packer, Trial, trial
from djinn_fx.remote.wire.codecs import Codec, codec_of, known, register
from djinn_fx.remote.wire.frame import decode, encode, joined
from djinn_fx.remote.wire.limits import Limits
from djinn_fx.remote.wire.packed import BLOCK_BYTES, packed_by, unpacked
from djinn_fx.remote.wire.payload import Payload, parted, payload_of
from djinn_fx.remote.wire.types import TORCH_TYPES
from tests.examples import examples
from tests.remote.wire.test_payload import bits, layouts


def inflated(data: memoryview, nbytes: int) -> bytes:
    one = zlib.decompressobj()
    return one.decompress(data, nbytes) + one.decompress(one.unconsumed_tail, 1)


ZLIB = Codec("zlib", lambda data: zlib.compress(data, 1), inflated)
NAMES = [
    "zlib",
    *(
        pytest.param(name, marks=pytest.mark.skipif(name not in known(), reason=f"{name} is not installed"))
        for name in ("lz4", "zstd")
    ),
]


@pytest.fixture(autouse=True)
def _zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_REGISTERED", {})
    register(ZLIB)


def few_values(count: int, dtype: str = "float32") -> torch.Tensor:
    """Numbers that pack well."""
    seeded = torch.Generator().manual_seed(1)
    size = TORCH_TYPES[dtype].itemsize
    made = torch.randint(0, 3, (-(-count // 16), size), generator=seeded).to(torch.uint8)
    return made.repeat_interleave(16, 0)[:count].reshape(-1).view(TORCH_TYPES[dtype])


def sent(payload: Payload, **how: Any) -> Any:
    return joined(encode("call", {}, {"x": payload}, **how))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32", "int64", "complex128", "float8_e4m3fn"])
def test_a_packed_tensor_comes_back(name: str, dtype: str) -> None:
    tensor = few_values(3 * BLOCK_BYTES // TORCH_TYPES[dtype].itemsize - 77, dtype)
    plain = payload_of(tensor)
    small = packed_by(plain, name)
    assert small.nbytes < plain.nbytes / 2
    assert (small.codec, small.digest) == (name, plain.digest)
    raw = sent(small)
    assert len(raw) < plain.nbytes / 2
    for digests in (True, False):
        found = decode(sent(small, digests=digests))
        assert torch.equal(bits(found.tensors["x"]), bits(tensor))
        assert found.digests == ({"x": plain.digest} if digests else {})


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_pack_travels_as_it_is(name: str) -> None:
    noise = torch.frombuffer(bytearray(random.Random(0).randbytes(2 * BLOCK_BYTES)), dtype=torch.uint8)
    plain = payload_of(noise)
    assert packed_by(plain, name) is plain
    mixed = torch.cat([noise, torch.zeros(BLOCK_BYTES, dtype=torch.uint8)])
    small = packed_by(payload_of(mixed), name)
    assert small.codec == name
    assert torch.equal(decode(sent(small)).tensors["x"], mixed)


@examples(60)
@given(st.data())
def test_any_layout_comes_back_equal(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in ("zlib", "lz4", "zstd") if name in known()]))
    tensor = data.draw(layouts().filter(torch.Tensor.dim))
    large = tensor.repeat([8] * tensor.dim()).permute(data.draw(st.permutations(range(tensor.dim()))))
    payload = payload_of(large)
    back = decode(sent(packed_by(payload, name))).tensors["x"]
    assert (back.shape, back.stride()) == (large.shape, large.stride()) or not large.numel()
    assert payload_of(back).digest == payload.digest


def test_a_frame_that_is_not_packed_is_what_it_was_before_there_were_codecs() -> None:
    raw = sent(payload_of(torch.ones(5))).tobytes()
    assert b"codec" not in raw
    assert Packer(lambda nbytes: nbytes / 1e3, peer=()).pack(payload_of(few_values(10**6))).codec is None


def test_an_unknown_codec_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = sent(packed_by(payload_of(few_values(4000)), "zlib"))
    monkeypatch.setattr(codecs, "_REGISTERED", {})
    with pytest.raises(EngineError, match=r"'x'.*unknown codec 'zlib'"):
        decode(raw)
    monkeypatch.setattr(codecs, "_installed", lambda name: None)
    assert known() == ()
    with pytest.raises(EngineError, match=r"lz4.*pip install 'djinn-fx\[wire\]'"):
        codec_of("lz4")


@pytest.mark.parametrize("name", ["zlib", "lz4", "Upper", "", "x" * 30])
def test_names_are_names_and_taken_once(name: str) -> None:
    with pytest.raises(SettingsError):
        register(Codec(name, ZLIB.compress, ZLIB.decompress))


# What anybody may send


def stated(payload: Payload, shape: str, name: str) -> memoryview:
    """A packed payload whose header says another shape."""
    at = payload.head.index(b"'shape': (")
    head = payload.head[:at] + f"'shape': ({shape}), }}".encode()
    head = head.ljust(len(payload.head) - 1) + b"\n"
    return memoryview(head + bytes(packed_by(payload, name).data))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", ["4000000000,", "1000, 1000, 1000, 1000", "900000000,"])
def test_a_bomb_is_told_before_memory_is_reserved(name: str, shape: str) -> None:
    raw = stated(payload_of(few_values(4000)), shape, name)
    tracemalloc.start()
    try:
        with pytest.raises(EngineError, match=r"allowed|blocks"):
            unpacked(*parted(raw), "float32", name, 2**31)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_frame_together_is_bounded(name: str) -> None:
    one = packed_by(payload_of(few_values(100_000)), name)
    raw = joined(encode("call", {}, {str(n): one for n in range(4)}))
    assert len(decode(raw).tensors) == 4
    with pytest.raises(EngineError, match=r"at most .* allowed"):
        decode(raw, limits=Limits(payload_bytes=1_000_000))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [BLOCK_BYTES // 4 - 1, BLOCK_BYTES // 4 + 1])
def test_a_block_of_another_size_than_it_should_have_is_told(name: str, wrong: int) -> None:
    payload = payload_of(few_values(BLOCK_BYTES // 4))
    raw = stated(payload, f"{wrong},", name)
    with pytest.raises(EngineError):
        unpacked(*parted(raw), "float32", name, 2**31)


def test_what_zstd_says_of_itself_is_not_believed() -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(2**26))
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(4000))
    head = payload_of(torch.zeros(1000)).head
    for block in (bomb, unknown):
        raw = memoryview(head + struct.pack("<I", len(block)) + block)
        with pytest.raises(EngineError, match="zstd"):
            unpacked(*parted(raw), "float32", "zstd", 2**31)


# Whether it pays


def at(bytes_s: float, share: float = 0.5) -> Packer:
    """A way of so many bytes a second, and a codec that packs and unpacks 100 MB in a second each."""
    return Packer(lambda nbytes: nbytes / bytes_s, ["zlib"], tried=lambda payload, name: Trial(share, 1e-8, 1e-8))


def test_packing_is_for_ways_on_which_it_pays() -> None:
    payload = payload_of(few_values(2_000_000))
    # Half of the bytes less, 2e-8 s a byte more: even at 25 MB/s.
    assert at(15e6).chosen(payload) == "zlib"
    assert at(24e6).chosen(payload) is None  # a gain smaller than the margin
    assert at(40e6).chosen(payload) is None
    assert at(15e6, share=0.95).chosen(payload) is None
    packer = at(1e6)
    assert packer.pack(payload).codec == "zlib"
    assert packer.pack(payload_of(torch.ones(3))).codec is None  # not worth a trial
    assert packer.counts == {"zlib": 1, "": 1}


def test_of_two_codecs_the_one_that_is_there_first() -> None:
    register(Codec("other", ZLIB.compress, ZLIB.decompress))
    trials = {"zlib": Trial(0.5, 1e-8, 1e-8), "other": Trial(0.25, 3e-8, 3e-8)}
    payload = payload_of(few_values(2_000_000))
    for bytes_s, wanted in ((1e6, "other"), (12e6, "zlib")):
        packer = Packer(lambda n, b=bytes_s: n / b, list(trials), tried=lambda payload, name: trials[name])  # type: ignore[misc]
        assert packer.chosen(payload) == wanted
    only = Packer(lambda n: n / 1e6, ["zlib", "unheard-of"], tried=lambda payload, name: trials[name])
    assert only.chosen(payload) == "zlib"


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_is_what_the_codec_makes_of_the_tensor(name: str) -> None:
    payload = payload_of(few_values(1_000_000))
    found = trial(payload, name)
    share = len(packed_by(payload, name).data) / len(payload.data)
    assert found.share == pytest.approx(share, rel=0.1)
    assert found.pack_s > 0
    assert found.unpack_s > 0
    assert trial(payload_of(torch.ones(3)), name).share <= 1
