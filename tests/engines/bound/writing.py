"""Ways of writing into a weight: by torch, past its version counter, past torch altogether."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

Way = Callable[[Tensor, int], None]


def _stepped(optimizer: Callable[..., torch.optim.Optimizer], weight: Tensor) -> None:
    weight.grad = torch.ones_like(weight)
    optimizer([weight], lr=0.5).step()
    weight.grad = None


def _array(weight: Tensor) -> np.ndarray:
    found: np.ndarray = weight.detach().numpy()
    return found


def _row(weight: Tensor, seed: int) -> int:
    return seed * 37 % weight.shape[0]


def sgd(weight: Tensor, seed: int) -> None:
    _stepped(torch.optim.SGD, weight)


def adamw(weight: Tensor, seed: int) -> None:
    _stepped(torch.optim.AdamW, weight)


def load_state_dict(weight: Tensor, seed: int) -> None:
    module = nn.ParameterDict({"one": weight})
    module.load_state_dict({"one": torch.randn_like(weight)})


def in_place(weight: Tensor, seed: int) -> None:
    with torch.no_grad():
        weight.mul_(1.5)


def row_in_place(weight: Tensor, seed: int) -> None:
    with torch.no_grad():
        weight[_row(weight, seed)] += 3


def initialised(weight: Tensor, seed: int) -> None:
    nn.init.normal_(weight)


def in_inference_mode(weight: Tensor, seed: int) -> None:
    with torch.inference_mode():
        weight[_row(weight, seed)] -= 3


def out_argument(weight: Tensor, seed: int) -> None:
    torch.add(weight.detach(), 1.0, out=weight.data)


def other_memory(weight: Tensor, seed: int) -> None:
    weight.data = torch.randn_like(weight)


def from_a_vector(weight: Tensor, seed: int) -> None:
    nn.utils.vector_to_parameters(torch.randn(weight.numel()), [weight])


def swapped_tensors(weight: Tensor, seed: int) -> None:
    torch.utils.swap_tensors(weight, nn.Parameter(torch.randn_like(weight), requires_grad=weight.requires_grad))


def merged_by_data(weight: Tensor, seed: int) -> None:
    weight.data += torch.randn(weight.shape[0], 4) @ torch.randn(4, weight.shape[1])


def copied_by_data(weight: Tensor, seed: int) -> None:
    weight.data.copy_(torch.randn_like(weight))


def row_by_data(weight: Tensor, seed: int) -> None:
    weight.data[_row(weight, seed)] += 3


def column_by_data(weight: Tensor, seed: int) -> None:
    weight.data[:, seed % weight.shape[1]] += 3


def element_by_data(weight: Tensor, seed: int) -> None:
    weight.data[_row(weight, seed), seed % weight.shape[1]] += 50


def pruned_by_data(weight: Tensor, seed: int) -> None:
    part = weight.data.abs() > weight.data.abs().flatten().kthvalue(int(0.99 * weight.numel())).values
    weight.data[part] = 0


def indexed_by_data(weight: Tensor, seed: int) -> None:
    weight.data.index_copy_(0, torch.tensor([_row(weight, seed)]), torch.randn(1, weight.shape[1]))


def strided_by_data(weight: Tensor, seed: int) -> None:
    weight.data.as_strided((4, 4), (64, 1), _row(weight, seed) * 8).add_(9)


def together_by_data(weight: Tensor, seed: int) -> None:
    torch._foreach_add_([weight.data[_row(weight, seed)]], 3.0)


def clamped_by_data(weight: Tensor, seed: int) -> None:
    weight.data[_row(weight, seed)] *= 4
    weight.data[_row(weight, seed)].clamp_(-2, 2)


def rows_exchanged(weight: Tensor, seed: int) -> None:
    one, other = _row(weight, seed), (_row(weight, seed) + 11) % weight.shape[0]
    array = _array(weight)
    array[[one, other]] = array[[other, one]]


def sign_by_numpy(weight: Tensor, seed: int) -> None:
    row = _array(weight)[_row(weight, seed)]
    np.negative(row, out=row)


def row_by_numpy(weight: Tensor, seed: int) -> None:
    _array(weight)[_row(weight, seed)] += 3


def element_by_numpy(weight: Tensor, seed: int) -> None:
    _array(weight)[_row(weight, seed), 5] += 50


def scattered_by_numpy(weight: Tensor, seed: int) -> None:
    places = np.random.default_rng(seed).integers(0, weight.numel(), 40)
    _array(weight).reshape(-1)[places] = 5


def copied_by_numpy(weight: Tensor, seed: int) -> None:
    row = _array(weight)[_row(weight, seed)]
    np.copyto(row, np.full_like(row, 2 + seed % 5))


def by_memoryview(weight: Tensor, seed: int) -> None:
    row = memoryview(_array(weight)[_row(weight, seed)])
    row[3] = row[3] + 60


def by_address(weight: Tensor, seed: int) -> None:
    row = np.full(weight.shape[1], 1.0 + seed % 5, np.float32)
    ctypes.memmove(weight.data_ptr() + 4 * weight.shape[1] * _row(weight, seed), row.ctypes.data, row.nbytes)


def by_dlpack(weight: Tensor, seed: int) -> None:
    torch.from_dlpack(weight.detach())[_row(weight, seed)].mul_(-2)


def by_another_thread(weight: Tensor, seed: int) -> None:
    worker = threading.Thread(target=row_by_numpy, args=(weight, seed))
    worker.start()
    worker.join()


def by_the_kernel(weight: Tensor, seed: int) -> None:
    reader, writer = os.pipe()
    row = np.full(weight.shape[1], 2.0 + seed % 5, np.float32)
    os.write(writer, row.tobytes())
    os.readv(reader, [memoryview(_array(weight)[_row(weight, seed)]).cast("B")])
    os.close(reader)
    os.close(writer)


#: Seen before the next answer on every kernel: they count a version, or move the weight to other memory.
TRACED: tuple[Way, ...] = (
    sgd, adamw, load_state_dict, in_place, row_in_place, initialised, in_inference_mode, other_memory, from_a_vector,
    swapped_tensors,
)  # fmt: skip
#: Seen before the next answer on every kernel because they change the probed places too, as good as always.
WIDE: tuple[Way, ...] = (out_argument, merged_by_data, copied_by_data)
#: Where the kernel does not tell of writes these are seen within ``rotation.MAX_CALLS`` calls, for weights of more than
#: a few pages; no other way may need as long. docs/guard.md says so.
DELAYED: tuple[Way, ...] = (
    row_by_data, column_by_data, element_by_data, pruned_by_data, indexed_by_data, strided_by_data, together_by_data,
    clamped_by_data, rows_exchanged, sign_by_numpy, row_by_numpy, element_by_numpy, scattered_by_numpy, copied_by_numpy,
    by_memoryview, by_address, by_dlpack, by_another_thread, by_the_kernel,
)  # fmt: skip
WAYS = TRACED + WIDE + DELAYED
