"""A model that is read while it runs: equal answers, bytes read, what it refuses."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import djinn_fx
from djinn_fx.errors import ModelFileError, OffloadError, SettingsError
from djinn_fx.reasons import ReasonKind
from djinn_fx.runtime.offload.plan import SMALL_BYTES
from tests.runtime.offload.saved import DEPTH, WIDTH, WORKING, Stack, bytes_of, lender, offloaded, save
from tests.waiting import until

IDS = torch.arange(12).view(2, 6) * 7


@pytest.fixture(scope="module")
def plain() -> Stack:
    torch.manual_seed(0)
    return Stack().eval().requires_grad_(False)


@pytest.fixture
def folder(plain: Stack, tmp_path: Path) -> Path:
    return save(plain, tmp_path)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_answers_are_the_models_and_each_weight_is_read_once_a_call(plain: Stack, folder: Path, mode: Any) -> None:
    model = offloaded(Stack, folder, room=12 << 20)
    weights = lender(model)
    assert weights.ring is not None
    with mode():
        assert torch.equal(model(IDS), plain(IDS))  # by which the order of use is learned
        misses, before = weights.ring.misses, weights.shards.read_bytes
        for _ in range(3):
            assert torch.equal(model(IDS), plain(IDS))
    assert weights.ring.misses == misses
    assert 0 < weights.plan.pass_bytes < bytes_of(plain)
    rows = len(IDS.unique()) * WIDTH * 4
    ahead = weights.ring.size
    assert weights.shards.read_bytes - before <= 3 * (weights.plan.pass_bytes + rows) + ahead


def test_what_it_holds_is_within_the_room(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=12 << 20)
    status = djinn_fx.offload_status(model)
    assert status.pinned + status.ring <= 12 << 20
    assert status.by_rows > 1000 * WIDTH * 4  # the embedding
    assert (status.calls, status.seconds) == (0, None)
    with torch.no_grad():
        model(IDS)
    status = djinn_fx.offload_status(model)
    assert status.calls == 1
    assert status.read_bytes == lender(model).passes[-1].read_bytes
    assert status.predicted_read_bytes == lender(model).plan.pass_bytes
    assert "predicted" in str(status)
    assert "measured" in str(status)


def test_all_of_it_in_memory_reads_nothing(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=10**9)
    before = lender(model).shards.read_bytes
    with torch.no_grad():
        assert torch.equal(model(IDS), plain(IDS))
    assert lender(model).shards.read_bytes == before


def test_a_tied_weight_is_one_weight(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = Stack(tied=True).eval()
    model = offloaded(lambda: Stack(tied=True), save(plain, tmp_path), room=12 << 20)
    assert model.head.weight is model.table.weight
    assert len(list(model.parameters())) == len(list(plain.parameters()))
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(model(IDS), plain(IDS))


def test_a_tied_weight_that_is_saved_twice_must_be_the_same_twice(tmp_path: Path) -> None:
    plain = Stack(tied=True)
    tensors = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    offloaded(lambda: Stack(tied=True), tmp_path, room=12 << 20)
    tensors["head.weight"][-1, -1] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="differ"):
        offloaded(lambda: Stack(tied=True), tmp_path, room=12 << 20)


class Odd(nn.Module):
    """Sizes and types that are seldom: no dimension, no element, halves, bytes, whole numbers; a large buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.empty = nn.Parameter(torch.zeros(0, 7))
        for name, dtype in (("halves", torch.float16), ("brain", torch.bfloat16), ("eight", torch.float8_e4m3fn)):
            setattr(self, name, nn.Parameter(torch.linspace(-2, 2, 1200 * 1024).view(1200, 1024).to(dtype)))
        whole = torch.arange(1200 * 1024).view(1200, 1024).remainder(200) - 100
        self.register_buffer("bytes", whole.to(torch.int8))
        self.register_buffer("mask", whole > 0)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("table", torch.arange(5.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        whole = (
            self.halves.float() + self.brain.float() * self.eight.float() + self.bytes * self.scale + self.empty.sum()
        )
        return (whole * self.mask) @ x + self.table.sum() + self.count


def test_types_and_sizes_of_every_sort(tmp_path: Path) -> None:
    plain = Odd()
    with djinn_fx.parameters_on_meta():
        model = Odd()
    assert model.halves.is_meta
    save(plain, tmp_path)
    x = torch.randn(1024)
    djinn_fx.load_offloaded(model, tmp_path, budget=(7 << 20) + WORKING, working=WORKING, held=0)
    assert sum(key in lender(model).plan.streamed for key in range(5)) >= 2
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(model(x), plain(x))
    assert int(model.count) == 2  # a small buffer is an ordinary one


def test_a_weight_used_by_functions_of_its_own(tmp_path: Path) -> None:
    """Attention reads a projection's weight without calling it; a recurrent module keeps a list of its weights."""
    torch.manual_seed(0)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(640, 4, batch_first=True)
            self.recurrent = nn.GRU(640, 300, batch_first=True)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(300, 1200))

        def forward(self, x: Tensor) -> Tensor:
            return self.normed(self.recurrent(self.attention(x, x, x)[0])[0])

    plain = Mixed().eval()
    model = offloaded(Mixed, save(plain, tmp_path), room=8 << 20)
    x = torch.randn(2, 3, 640)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(model(x), plain(x))


def test_views_of_a_weight_are_read_when_they_are_used(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    for module in (model, plain):
        module.views = [
            module.up[0].weight.t()[3:50],
            *module.up[1].weight.chunk(3),
            module.down[2].weight[5].view(-1, 4),
        ]
    with torch.no_grad():
        model(IDS)
    for mine, real in zip(model.views, plain.views, strict=True):
        assert torch.equal(mine + 0, real)
        assert torch.equal(mine.detach().clone(), real)
    assert model.up[0].weight[2, 3].item() == plain.up[0].weight[2, 3].item()
    assert model.up[0].weight[0].tolist() == plain.up[0].weight[0].tolist()
    del plain.views


def test_gradients_of_inputs_are_right(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    found = []
    for module in (model, plain):
        x = torch.ones(3, WIDTH, requires_grad=True)
        y = x
        for up, down in zip(module.up, module.down, strict=True):
            y = down(F.gelu(up(y)))
        y.sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)


def test_a_call_in_another_order_is_right(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    x = torch.randn(2, WIDTH)
    with torch.no_grad():
        model(IDS)
        for number in (3, 0, 2, 1, 3):
            assert torch.equal(model.up[number](x), plain.up[number](x))
        assert torch.equal(model(IDS), plain(IDS))
        joined = [torch.cat([module.up[0].weight, module.up[3].weight]) for module in (model, plain)]
    assert torch.equal(*joined)


def test_threads_take_turns(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    right = plain(IDS)
    with torch.no_grad():
        model(IDS)
    misses = lender(model).ring.misses
    wrong: list[object] = []

    def call() -> None:
        try:
            with torch.no_grad():
                wrong.extend("unequal" for _ in range(4) if not torch.equal(model(IDS), right))
        except BaseException as error:  # noqa: BLE001 - told below
            wrong.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(lender(model).passes) == 13
    assert lender(model).ring.misses == misses


def test_tokens_of_a_llama_with_shards_on_the_meta_device(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=640, intermediate_size=1280, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=600, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    plain = LlamaForCausalLM(config).eval()
    plain.save_pretrained(tmp_path, max_shard_size="8MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model = offloaded(lambda: LlamaForCausalLM(config), tmp_path, room=12 << 20)
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    ids = torch.randint(5, 600, (2, 9))
    assert torch.equal(model.generate(ids, **asked), plain.generate(ids, **asked))
    assert isinstance(model, LlamaForCausalLM)
    assert lender(model).ring.misses == 0


@pytest.mark.parametrize("engine", ["eager", "inductor"])
def test_a_compiled_one_runs_as_it_is(plain: Stack, folder: Path, engine: str) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    compiled = torch.compile(model, backend="djinn", options={"engine": engine})
    with torch.no_grad():
        assert torch.equal(compiled(IDS), plain(IDS))
        assert torch.equal(compiled(IDS), plain(IDS))
    assert djinn_fx.offload_status(compiled).calls == 2


@pytest.mark.parametrize("backend", ["eager", "djinn"])
def test_compiling_a_part_of_it_changes_no_answer(plain: Stack, folder: Path, backend: str) -> None:
    """Nothing that happens in here may be traced: memory that is only lent would become part of a graph."""
    model = offloaded(Stack, folder, room=9 << 20)
    x = torch.randn(2, WIDTH)

    def through(module: Stack, number: int, x: Tensor) -> Tensor:
        return module.down[number](module.up[number](x)) * 2

    compiled = torch.compile(through, backend=backend)
    with torch.no_grad():
        for number in (1, 0, 1, 2):
            torch.testing.assert_close(compiled(model, number, x), through(plain, number, x))
        assert torch.equal(model(IDS), plain(IDS))


def test_activations_beyond_what_was_kept_let_weights_go(
    plain: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [100 << 20]  # what the process takes, by the system's count
    monkeypatch.setattr("djinn_fx.runtime.offload.places.resident_bytes", lambda pid: held[0])
    with torch.device("meta"):
        model = Stack()
    djinn_fx.load_offloaded(model, folder, budget=(18 << 20) + 1000, working=1000, held=0)
    with torch.no_grad():
        model(IDS)
        before = djinn_fx.offload_status(model)
        held[0] += 80 << 20  # of which the plan knows nothing
        assert torch.equal(model(IDS), plain(IDS))
        assert torch.equal(model(IDS), plain(IDS))
    after = djinn_fx.offload_status(model)
    assert after.pinned < before.pinned
    assert len(after.reasons) > 0
    assert {reason.kind for reason in after.reasons} == {ReasonKind.EVICTED}
    assert after.predicted_read_bytes + after.pinned == before.predicted_read_bytes + before.pinned or before.reasons


# -- what it refuses ---------------------------------------------------------------------------------------------------


def move(model: nn.Module, _: nn.Module) -> object:
    return model.to(torch.bfloat16)


REFUSED: dict[str, Callable[[Any, nn.Module], object]] = {
    "in place": lambda m, _: m.up[0].weight.add_(1),
    "an element": lambda m, _: m.up[0].weight.__setitem__(0, 1.0),
    "a view": lambda m, _: m.up[0].weight.data[2].zero_(),
    "detached": lambda m, _: m.up[0].weight.detach().t().mul_(2),
    "out": lambda m, _: torch.add(torch.ones(WIDTH, WIDTH), 1, out=m.up[0].weight.data),
    "foreach": lambda m, _: torch._foreach_add_([m.up[0].weight, m.up[1].weight], 1.0),
    "init": lambda m, _: nn.init.normal_(m.up[0].weight),
    "small": lambda m, _: m.norms[0].weight.fill_(2),
    "data": lambda m, _: setattr(m.up[0].weight, "data", torch.zeros(WIDTH, WIDTH)),
    "half": lambda m, _: m.half(),
    "to": move,
    "meta": lambda m, _: m.to("meta"),
    "part": lambda m, _: m.up.to(torch.float64),
    "train": lambda m, _: m.train(),
    "gradients": lambda m, _: m.requires_grad_(True),
    "a gradient": lambda m, _: setattr(m.up[0].weight, "requires_grad", True),
    "copy": lambda m, _: copy.deepcopy(m),
    "copy of a weight": lambda m, _: copy.deepcopy(m.up[0].weight),
    "pickle": lambda m, _: pickle.dumps(m),
    "pickle of a weight": lambda m, _: pickle.dumps(m.up[0].weight),
    "numpy": lambda m, _: m.up[0].weight.numpy(),
    "address": lambda m, _: m.up[0].weight.data_ptr(),
    "again": lambda m, _: djinn_fx.load_offloaded(m, "."),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_refused_and_nothing_has_changed(what: str, plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    with pytest.raises(OffloadError):
        REFUSED[what](model, plain)
    with torch.no_grad():
        assert torch.equal(model(IDS), plain(IDS))


def test_loading_into_it_is_refused_and_loading_from_it_works(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    with pytest.raises(RuntimeError, match="cannot change"):
        model.load_state_dict(plain.state_dict())
    other = Stack()
    other.load_state_dict(model.state_dict())
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), plain.parameters(), strict=True))


def test_to_where_it_is_already_does_nothing(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    assert model.to("cpu").float().eval() is model
    assert model.train(False) is model
    assert model.up[0].weight.to("cpu") is model.up[0].weight


def test_a_row_that_is_not_there_is_torchs_own_error(folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    for wrong in (1000, -1):
        with pytest.raises(IndexError, match="out of range"), torch.no_grad():
            model(torch.tensor([[1, wrong]]))


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_misfits_are_told_together_by_name(plain: Stack, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    tensors["up.0.wieght"] = tensors.pop("up.0.weight")
    tensors["up.1.bias"] = torch.zeros(5)
    tensors["up.2.bias"] = tensors["up.2.bias"].half()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError) as told:
        offloaded(Stack, tmp_path, room=9 << 20)
    for word in ("'up.0.weight' is not in the files; did you mean 'up.0.wieght'", "up.1.bias", "(5,)", "torch.float16"):
        assert word in str(told.value)


def test_more_than_the_model_needs_is_an_error_unless_allowed(plain: Stack, tmp_path: Path) -> None:
    save_file(
        {**{n: t.clone() for n, t in plain.state_dict().items()}, "more": torch.ones(2)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ModelFileError, match="'more'"):
        offloaded(Stack, tmp_path, room=9 << 20)
    offloaded(Stack, tmp_path, room=9 << 20, strict=False)


def test_a_budget_that_cannot_do_names_the_weight_and_the_least_that_can(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"'(head|up\.0|up\.3)\.weight'") as told:
        offloaded(Stack, folder, room=1000)
    least = int(str(told.value).split("the smallest budget is ")[1].split(" bytes")[0])
    with torch.device("meta"):
        model = Stack()
    djinn_fx.load_offloaded(model, folder, budget=least, working=WORKING, held=0)
    with torch.no_grad():
        model(IDS)
    for wrong in ("2", "2 apples", -1):
        with pytest.raises((SettingsError, djinn_fx.errors.UnitError)):
            djinn_fx.load_offloaded(Stack(), folder, budget=wrong)


class Rotary(nn.Module):
    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("frequencies", base ** -torch.linspace(0, 1, dim), persistent=False)


class Kept(Rotary):
    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__(dim, base)
        self.base = base


def turning(kind: type[Rotary]) -> nn.Module:
    model = nn.Module()
    model.rotary = kind(8, 500.0)
    model.linear = nn.Linear(8, 8)
    return model


def test_a_buffer_that_a_constructor_computed_is_computed_again_or_named(tmp_path: Path) -> None:
    plain = turning(Kept)
    save(plain, tmp_path)
    model = offloaded(lambda: turning(Kept), tmp_path, room=9 << 20)
    assert torch.equal(model.rotary.frequencies, plain.rotary.frequencies)
    with pytest.raises(ModelFileError, match=r"rotary.frequencies.*parameters_on_meta"):
        offloaded(lambda: turning(Rotary), tmp_path, room=9 << 20)
    with djinn_fx.parameters_on_meta():
        other = turning(Rotary)
    djinn_fx.load_offloaded(other, tmp_path, budget=WORKING + (9 << 20), working=WORKING, held=0)
    assert torch.equal(other.rotary.frequencies, plain.rotary.frequencies)


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("change", ["cut", "written"])
def test_a_file_that_changes_is_an_error_and_no_answer(folder: Path, when: str, change: str) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    path = folder / "model.safetensors"

    def spoil(*_: object) -> None:
        if change == "cut":
            os.truncate(path, path.stat().st_size - 4096)
        else:
            with path.open("r+b") as file:
                file.seek(-5, os.SEEK_END)
                file.write(b"hello")

    with torch.no_grad():
        model(IDS)
        if when == "before":
            spoil()
        else:
            model.norms[2].register_forward_pre_hook(spoil)
        for _ in range(2):
            with pytest.raises(ModelFileError, match="load it again"):
                model(IDS)


def test_an_error_in_the_model_leaves_it_usable(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    hook = model.norms[2].register_forward_pre_hook(fail)
    with torch.no_grad():
        with pytest.raises(ZeroDivisionError):
            model(IDS)
        hook.remove()
        assert torch.equal(model(IDS), plain(IDS))


def test_small_weights_are_never_read_twice(folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    sizes = lender(model).sizes
    assert {key for key, size in sizes.items() if size <= SMALL_BYTES} <= set(lender(model).plan.pinned)
    assert len(sizes) == 2 + 5 * DEPTH


def test_a_model_that_is_gone_leaves_no_thread_and_no_open_file(folder: Path) -> None:
    def open_here() -> list[str]:
        return [
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{n}")
        ]

    model = offloaded(Stack, folder, room=9 << 20)
    path = str(folder / "model.safetensors")
    assert path in open_here()
    held = [lender(model).ring._shared]
    del model
    gc.collect()
    assert until(lambda: held[0].stopped)
    held.clear()
    assert until(lambda: not gc.collect() and path not in open_here())


def test_a_forked_child_reads_by_a_thread_of_its_own(plain: Stack, folder: Path) -> None:
    model = offloaded(Stack, folder, room=9 << 20)
    right = plain(IDS)
    with torch.no_grad():
        model(IDS)
    torch.set_num_threads(1)
    child = os.fork()
    if child == 0:
        with torch.no_grad():
            os._exit(0 if torch.equal(model(IDS), right) else 1)
    assert os.waitpid(child, 0)[1] == 0
