"""A tensor as numpy's bytes: numpy reads what we write and writes what we read, and nothing is copied without need."""

from __future__ import annotations

import io
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.payload import Payload, parted, payload_of, tensor_of
from djinn_fx.remote.wire.types import CARRIERS, TORCH_TYPES
from tests.examples import examples


def raw(payload: Payload) -> bytearray:
    """As it lies in a frame; memory that may be written."""
    return bytearray(payload.head + bytes(payload.data))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's elements, in the usual order: equal for NaN too, and for types that cannot compare."""
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


def random_bits(shape: tuple[int, ...], name: str, seed: int = 0) -> torch.Tensor:
    """A tensor of any type; every pattern of bits is a value of it, but for truth values."""
    dtype = TORCH_TYPES[name]
    count = int(np.prod(shape)) * dtype.itemsize
    made = torch.randint(0, 2 if name == "bool" else 256, (count,), generator=torch.Generator().manual_seed(seed))
    return made.to(torch.uint8).view(dtype).reshape(shape)


def of_another_type() -> list[str]:
    return [name for name, carrier in CARRIERS.items() if name != carrier]


@pytest.mark.parametrize("name", CARRIERS)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 4)])
def test_numpy_alone_reads_every_type(name: str, shape: tuple[int, ...]) -> None:
    tensor = random_bits(shape, name)
    payload = payload_of(tensor)
    array = np.load(io.BytesIO(raw(payload)), allow_pickle=False)
    assert (array.dtype, array.shape) == (np.dtype(CARRIERS[name]), shape)
    assert array.tobytes() == bits(tensor).numpy().tobytes()
    back = tensor_of(*parted(raw(payload)), payload.dtype, payload.axes)
    assert (back.dtype, back.shape, back.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    assert torch.equal(bits(back), bits(tensor))


@pytest.mark.parametrize("name", [name for name, carrier in CARRIERS.items() if name == carrier])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_bytes_are_those_of_numpys_save(name: str, order: Any) -> None:
    array = np.asarray(random_bits((3, 4, 5), name).numpy(), order=order)
    saved = io.BytesIO()
    np.save(saved, array, allow_pickle=False)
    assert raw(payload_of(torch.from_numpy(array))) == saved.getvalue()
    assert tensor_of(*parted(saved.getvalue()), name).stride() == torch.from_numpy(array).stride()


@st.composite
def layouts(draw: st.DrawFn) -> torch.Tensor:
    """Tensors of any order of dimensions, with gaps, repeats, and from anywhere in their memory."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    name = draw(st.sampled_from(list(CARRIERS)))
    tensor = random_bits(shape, name, draw(st.integers(0, 99)))
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    for dim in range(tensor.dim()):
        way = draw(st.sampled_from(["all", "some", "expand"]))
        if way == "some" and tensor.shape[dim]:
            tensor = tensor.narrow(dim, 1, tensor.shape[dim] - 1)[(slice(None),) * dim + (slice(None, None, 2),)]
        if way == "expand" and tensor.shape[dim] == 1:
            tensor = tensor.expand(*tensor.shape[:dim], 3, *tensor.shape[dim + 1 :])
    return tensor


@examples(100)
@given(layouts())
def test_any_layout_comes_back_equal(tensor: torch.Tensor) -> None:
    payload = payload_of(tensor)
    back = tensor_of(*parted(raw(payload)), payload.dtype, payload.axes)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(bits(back), bits(tensor))
    assert payload_of(back).digest == payload.digest


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 5),
        torch.randn(4, 5).t(),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(2, 3, 4).permute(1, 0, 2),
        torch.randn(4, 5)[1:3],
        torch.randn(4).bfloat16(),
        torch.nn.Parameter(torch.randn(3)),
    ],
    ids=["plain", "transposed", "channels last", "permuted", "rows", "bfloat16", "parameter"],
)
def test_dense_memory_is_not_copied_and_keeps_its_strides(tensor: torch.Tensor) -> None:
    payload = payload_of(tensor)
    assert np.frombuffer(payload.data, dtype=np.uint8).ctypes.data == tensor.data_ptr()
    received = raw(payload)
    back = tensor_of(*parted(received), payload.dtype, payload.axes)
    assert back.stride() == tensor.stride()
    start = np.frombuffer(received, dtype=np.uint8).ctypes.data
    assert back.data_ptr() == start + len(payload.head)


def test_lazy_conjugates_and_negatives_are_computed() -> None:
    tensor = torch.randn(3, dtype=torch.complex64)
    for lazy in (tensor.conj(), tensor.conj().imag):
        payload = payload_of(lazy)
        assert torch.equal(tensor_of(*parted(raw(payload)), payload.dtype), lazy.clone().resolve_neg().resolve_conj())


def test_memory_that_must_not_be_written_is_read_without_a_copy_or_a_warning() -> None:
    sent = bytes(raw(payload_of(torch.arange(100.0))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = tensor_of(*parted(sent), "float32")
    assert tensor.data_ptr() == np.frombuffer(sent, dtype=np.uint8).ctypes.data + 128
    del sent
    assert torch.equal(tensor, torch.arange(100.0))


def test_memory_of_an_odd_address_and_another_byte_order_is_copied() -> None:
    sent = bytes(raw(payload_of(torch.arange(7.0))))
    odd = memoryview(b"x" + sent)[1:]
    assert torch.equal(tensor_of(*parted(odd), "float32"), torch.arange(7.0))
    swapped = io.BytesIO()
    np.save(swapped, np.arange(7, dtype=">f4"))
    assert torch.equal(tensor_of(*parted(swapped.getvalue()), "float32"), torch.arange(7.0))


def test_the_digest_knows_type_axes_and_values() -> None:
    numbers = torch.arange(16, dtype=torch.int16).view(4, 4)
    others = [numbers.bfloat16(), numbers.view(torch.bfloat16), numbers.t(), numbers + 1, numbers.view(2, 8)]
    digests = {payload_of(one).digest for one in (numbers, *others)}
    assert len(digests) == 1 + len(others)
    assert payload_of(numbers.clone()).digest == payload_of(numbers).digest


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.empty(2, dtype=torch.uint4),
        torch.zeros((1,) * 40),
    ],
    ids=["sparse", "meta", "4 bits", "40 dimensions"],
)
def test_what_is_no_plain_tensor_is_not_sent(tensor: torch.Tensor) -> None:
    with pytest.raises(EngineError, match="cannot be sent"):
        payload_of(tensor)


class Evil:
    """What must never be called."""

    def __reduce__(self) -> Any:
        raise AssertionError("unpickled")


def saved(array: np.ndarray, **how: Any) -> bytes:
    into = io.BytesIO()
    np.save(into, array, **how)
    return into.getvalue()


def with_header(text: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        pickle.dumps([1.0]),
        saved(np.array([{}, None], dtype=object), allow_pickle=True),
        saved(np.zeros(3, dtype=[("a", "<f4")])),
        saved(np.zeros(3, dtype="<f8")),
        saved(np.array(["a"])),
        saved(np.zeros(3, dtype="<f4"))[:-1],
        saved(np.zeros(3, dtype="<f4")) + b"\0",
        b"\x93NUMPY\x04\x00" + saved(np.zeros(3, dtype="<f4"))[8:],
        with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
        with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4), }\n"),
        with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807, 4), }\n"),
        with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }\n"),
        with_header(b"(" * 9_000),
    ],
    ids=lambda content: repr(content[10:40]),
)
def test_what_is_no_array_of_the_type_is_one_error(content: bytes) -> None:
    with pytest.raises(EngineError):
        tensor_of(*parted(content), "float32")


def test_truth_values_are_0_or_1() -> None:
    sent = raw(payload_of(torch.tensor([True, False])))
    sent[-1] = 7
    with pytest.raises(EngineError, match="neither 0 nor 1"):
        tensor_of(*parted(sent), "bool")


@examples(100)
@given(st.data())
def test_any_bytes_are_a_tensor_or_an_error(data: st.DataObject) -> None:
    good = raw(payload_of(random_bits((3, 2), data.draw(st.sampled_from(list(CARRIERS))))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(good) - 1))
        good[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
        if not good:
            break
    name = data.draw(st.sampled_from(list(CARRIERS)))
    try:
        tensor = tensor_of(*parted(good), name, data.draw(st.none() | st.permutations(range(2))))
    except EngineError:
        return
    assert tensor.dtype is TORCH_TYPES[name]
    assert tensor.numel() * tensor.itemsize <= len(good)
