"""The sides of ``budget.py``, each in a process of its own: the same model, its weights had in different ways."""

from __future__ import annotations

import json
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

#: Sizes: width, inner width, layers, words. The first has 6.2 GB of weights in float32, the second 1.5 GB.
FULL, QUICK = (2560, 6912, 20, 32000), (1280, 3456, 19, 8000)
#: A shard is closed when it is larger than this.
_SHARD_BYTES = 500_000_000
INDEX = "model.safetensors.index.json"


def config(quick: bool) -> Any:
    """The model's."""
    from transformers import LlamaConfig

    width, inner, layers, words = QUICK if quick else FULL
    return LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, vocab_size=words,
        num_attention_heads=width // 128, num_key_value_heads=width // 640, tie_word_embeddings=False,
    )  # fmt: skip


def bare(quick: bool) -> nn.Module:
    """The model with real buffers and weights on the meta device."""
    from transformers import LlamaForCausalLM

    import djinn_fx

    with djinn_fx.parameters_on_meta():
        return LlamaForCausalLM(config(quick)).eval()


def write(folder: str, quick: bool) -> dict[str, Any]:
    """Save random weights as shards, never more than a shard in memory. Returns bytes and seconds."""
    begun, total = time.perf_counter(), 0
    places: dict[str, str] = {}
    torch.manual_seed(0)
    for number, names in enumerate(_shards(bare(quick))):
        shard = {}
        for name, tensor in names.items():
            norm = tensor.dim() == 1
            shard[name] = torch.ones(tensor.shape) if norm else torch.randn(tensor.shape) * tensor.shape[-1] ** -0.5
        file = f"model-{number:05d}.safetensors"
        save_file(shard, Path(folder, file))
        places.update(dict.fromkeys(shard, file))
        total += sum(t.numel() * 4 for t in shard.values())
        forget(Path(folder, file))
    Path(folder, INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return {"bytes": total, "seconds": time.perf_counter() - begun}


def _shards(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in model.named_parameters():
        shard[name] = tensor
        if sum(one.numel() * 4 for one in shard.values()) > _SHARD_BYTES:
            yield shard
            shard = {}
    yield shard


def forget(file: Path) -> None:
    """Have a file's pages on disk and out of the page cache."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def files_of(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.safetensors"))


# -- sides -------------------------------------------------------------------------------------------------------------


def in_memory(folder: str, quick: bool, budget: int) -> nn.Module:
    """All of it, without a limit: what the others' tokens must be, and the time of computing alone.

    On huge pages, as djinn has them: computing on others is slower, and no floor.
    """
    from safetensors.torch import load_file

    model = bare(quick)
    for file in files_of(folder):
        tensors = {name: _on_huge_pages(tensor) for name, tensor in load_file(file).items()}
        model.load_state_dict(tensors, strict=False, assign=True)
        forget(file)
    return model


def _on_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    area = mmap.mmap(-1, tensor.numel() * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.float32).view(tensor.shape).copy_(tensor)


def djinn(folder: str, quick: bool, budget: int) -> nn.Module:
    """Djinn's."""
    import djinn_fx

    return djinn_fx.load_offloaded(bare(quick), folder, budget=budget)


def accelerate(folder: str, quick: bool, budget: int) -> nn.Module:
    """Accelerate's disk offload, from the same safetensors."""
    from accelerate import disk_offload

    places = json.loads(Path(folder, INDEX).read_text())["weight_map"]
    index = {
        name: {"safetensors_file": str(Path(folder, file)), "weight_name": name, "dtype": "float32"}
        for name, file in places.items()
    }
    Path(folder, "index.json").write_text(json.dumps(index))
    return disk_offload(bare(quick), folder, execution_device=torch.device("cpu"))


def accelerate_dat(folder: str, quick: bool, budget: int) -> nn.Module:
    """Accelerate's disk offload in the form that it writes itself; beside the safetensors that the bench made."""
    from accelerate import disk_offload
    from accelerate.utils import offload_weight, save_offload_index
    from safetensors import safe_open

    index: dict[str, Any] = {}
    for file in files_of(folder) if not Path(folder, "index.json").exists() else ():
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                index = offload_weight(opened.get_tensor(name), name, folder, index)
                forget(Path(folder, f"{name}.dat"))
    if index:
        save_offload_index(index, folder)
    return disk_offload(bare(quick), folder, execution_device=torch.device("cpu"))


def mapped(folder: str, quick: bool, budget: int) -> nn.Module:
    """Plain mapped safetensors: the page cache decides."""
    model = bare(quick)
    for file in files_of(folder):
        model.load_state_dict(_mapped(file)[1], strict=False, assign=True)
    return model


def advised(folder: str, quick: bool, budget: int) -> nn.Module:
    """The same; before each layer the system is told which pages come next, and after it which are not needed."""
    model = bare(quick)
    advice: dict[str, list[tuple[mmap.mmap, int, int]]] = {}
    for file in files_of(folder):
        area, tensors, spans = _mapped(file)
        model.load_state_dict(tensors, strict=False, assign=True)
        for name, (start, end) in spans.items():
            layer = ".".join(name.split(".")[:3]) if ".layers." in name else name.rsplit(".", 1)[0]
            advice.setdefault(layer, []).append((area, start - start % mmap.PAGESIZE, end))
    order = ["model.embed_tokens", *(f"model.layers.{n}" for n in range(len(model.model.layers))), "lm_head"]

    def tell(layer: str, word: int) -> None:
        for area, start, end in advice[layer]:
            area.madvise(word, start, end - start)

    for here, following in zip(order, [*order[1:], order[1]], strict=True):
        module = model.get_submodule(here)
        module.register_forward_pre_hook(lambda *_, name=following: tell(name, mmap.MADV_WILLNEED))
        module.register_forward_hook(lambda *_, name=here: tell(name, mmap.MADV_DONTNEED))
    return model


def _mapped(file: Path) -> tuple[mmap.mmap, dict[str, torch.Tensor], dict[str, tuple[int, int]]]:
    with file.open("rb") as opened:
        area = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    length = int.from_bytes(area[:8], "little")
    tensors, spans = {}, {}
    for name, entry in json.loads(area[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = (8 + length + at for at in entry["data_offsets"])
            flat = torch.frombuffer(area, dtype=torch.float32, offset=start, count=(end - start) // 4)
            tensors[name], spans[name] = flat.view(entry["shape"]), (start, end)
    return area, tensors, spans


SIDES: dict[str, Callable[[str, bool, int], nn.Module]] = {
    "in memory": in_memory,
    "djinn": djinn,
    "accelerate": accelerate,
    "accelerate dat": accelerate_dat,
    "mapped": mapped,
    "advised": advised,
}


class Side:
    """A side that answers when it is asked.

    Args:
        side: one of ``SIDES``.
        folder: its own copy of the weights.
        quick: the small model.
        budget: bytes.
    """

    def __init__(self, side: str, folder: str, quick: bool, budget: int) -> None:
        begun = time.perf_counter()
        self.model = SIDES[side](folder, quick, budget)
        self.loaded_s = time.perf_counter() - begun
        self._djinn = side == "djinn"

    def loaded(self) -> dict[str, Any]:
        """Seconds that loading took, and what djinn plans."""
        return {"seconds": self.loaded_s, **self._status()}

    def _status(self) -> dict[str, Any]:
        if not self._djinn:
            return {}
        import djinn_fx

        status = djinn_fx.offload_status(self.model)
        return {"plan": str(status), "pass_bytes": status.predicted_read_bytes, "evicted": len(status.reasons)}

    def _ahead(self) -> int:
        """Bytes that are there already, beside what always stays."""
        if not self._djinn:
            return 0
        from djinn_fx.runtime.offload.load import weights_of

        ring = weights_of(self.model).ring
        return ring.ready_bytes if ring is not None else 0

    @torch.no_grad()
    def answer(self, length: int, more: int) -> dict[str, Any]:
        """Tokens for a prompt: the first one's seconds, then those of each further one, one at a time."""
        prompt = torch.randint(5, 8000, (1, length), generator=torch.Generator().manual_seed(length))
        seconds, ahead, tokens, cache = [], [], [], None
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        given = prompt
        for _ in range(1 + more):
            ahead.append(self._ahead())
            begun = time.perf_counter()
            made = self.model(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds.append(time.perf_counter() - begun)
            cache, given = made.past_key_values, made.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(int(given))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
        return {"seconds": seconds, "ahead": ahead, "tokens": tokens, "major_faults": faults, **self._status()}


# -- the disk ----------------------------------------------------------------------------------------------------------

#: Ways to read: bytes a read, threads. Into memory larger than a processor's caches, where weights are wanted.
PATTERNS = ((1 << 20, 1), (4 << 20, 1), (1 << 20, 2), (2 << 20, 2), (8 << 20, 2))
_AREA = 256 << 20


def rates(folder: str, size: int) -> dict[str, float]:
    """Bytes a second, by pattern, each over so many bytes of the largest file, past the page cache."""
    file = max(files_of(folder), key=lambda one: one.stat().st_size)
    size = min(size, file.stat().st_size)
    return {f"{block >> 20} MiB x {count}": _rate(file, size, block, count) for block, count in PATTERNS}


def _rate(file: Path, size: int, block: int, threads: int) -> float:
    handle = os.open(file, os.O_RDONLY | os.O_DIRECT)
    area = mmap.mmap(-1, _AREA, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    view, blocks = memoryview(area), size // block
    view[:: mmap.PAGESIZE] = bytes(_AREA // mmap.PAGESIZE)  # no page is fetched while the clock runs

    def read(first: int) -> None:
        for number in range(first, blocks, threads):
            at = number * block % _AREA
            os.preadv(handle, [view[at : at + block]], number * block)

    workers = [threading.Thread(target=read, args=(first,)) for first in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun
    os.close(handle)
    return blocks * block / seconds
