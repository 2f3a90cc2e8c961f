"""What is traced for ops whose rule for fake tensors torch has wrong: eager's strides, and eager's values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.backend.support import WHOLE, Noted, djinn

OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1])),
    "batch_norm in training": lambda x: F.batch_norm(x, None, None, training=True),
    "roll": lambda x: torch.roll(x, 1, -1),
    "roll of two": lambda x: torch.roll(x, (1, 2), (0, 1)),
    "roll by nothing": lambda x: torch.roll(x, 0, 1),
    "roll of all": lambda x: torch.roll(x, 3),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2) if x.dim() == 4 else x * 1,
    "logsigmoid": F.logsigmoid,
    "cat with nothing": lambda x: torch.cat([torch.empty(0), x], dim=1),
    "cat": lambda x: torch.cat([x, x * 2], dim=1),
    "reflection_pad3d": lambda x: F.pad(x, (1,) * 6, mode="reflect") if x.dim() > 3 else x * 1,
}


def layouts(*shape: int) -> Iterator[Tensor]:
    x = torch.randn(shape)
    yield x
    back = tuple(reversed(range(len(shape))))
    yield x.permute(back).contiguous().permute(back)
    if len(shape) == 4:
        yield x.contiguous(memory_format=torch.channels_last)
        yield x.contiguous(memory_format=torch.channels_last)[:, :2]
        yield x.transpose(0, 1).contiguous().transpose(0, 1)
        yield x[:1].contiguous(memory_format=torch.channels_last)
    if len(shape) == 5:
        yield x.contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("name", OPS)
def test_strides_are_eagers(name: str) -> None:
    function = OPS[name]

    def several(*given: Tensor) -> list[Tensor]:
        return [function(x) for x in given]

    given = [x for shape in ((3, 4), (2, 4, 3, 5), (2, 4, 3, 4, 5)) for x in layouts(*shape)]
    noted = Noted()
    with torch.no_grad():
        expected, found = several(*given), djinn(several, WHOLE, dynamic=False)(*given)
    returned: Any = noted.graphs[0].srg.output.args[0]
    traced = [node.meta["val"] for node in returned]
    for one, mine, promised in zip(expected, found, traced, strict=True):
        assert torch.equal(mine, one)
        assert _counted(mine) == _counted(promised) == _counted(one), one.shape


def _counted(value: Tensor) -> list[int]:
    return [stride for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1]
