"""Sessions with weights in them: opened for what is called, noticed when stale, dropped when nobody can ask again."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.engines.bound import closing, rotation
from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.engines.bound.feeding import Feeder
from djinn_fx.engines.bound.region import MAX_REBINDS, REBIND_WINDOW, BoundRegion
from djinn_fx.engines.bound.signature import Fed, Given, Signature
from djinn_fx.errors import EngineError
from djinn_fx.reasons import ReasonKind

#: Matrices that are watched page by page, and vectors that are compared.
WIDTH = 128


class Product:
    """A session of ``x @ w.t() + b`` with the weights as they were when it was opened."""

    def __init__(self, weights: dict[int, Tensor]) -> None:
        self.weights = {place: weight.detach().clone() for place, weight in weights.items()}
        self.memory_bytes = sum(weight.nbytes for weight in self.weights.values())

    def run(self, args: list[Any]) -> list[Any]:
        x, w, b = (self.weights.get(place, arg) for place, arg in enumerate(args))
        return [x.detach() @ w.detach().t() + b.detach()]


SIGNATURE = Signature(
    fed=(
        Fed(name="p0", place=0, dtype="float32", sizes=(None, WIDTH)),
        Fed(name="p1", place=1, dtype="float32", sizes=(WIDTH, WIDTH)),
        Fed(name="p2", place=2, dtype="float32", sizes=(WIDTH,)),
    ),
    results=(Given(output=0, dtype="float32"),),
    outputs=1,
)


class Region:
    """A bound region that counts what it opens."""

    def __init__(self, mode: str = "auto", opener: Callable[[dict[int, Tensor]], Any] = Product) -> None:
        self.opened: list[tuple[int, ...]] = []

        def opening(weights: dict[int, Tensor]) -> Any:
            self.opened.append(tuple(weights))
            return opener(weights)

        self.bound = BoundRegion(
            engine="fake", label="here", signature=SIGNATURE, weights=(1, 2), opener=opening, mode=mode
        )

    def right(self, x: Tensor, w: Tensor, b: Tensor) -> bool:
        """Whether a call answers as it must."""
        (found,) = self.bound([x, w, b])
        return torch.allclose(found, x @ w.t() + b, atol=1e-4)


def layer() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(WIDTH))


def collected() -> None:
    """Garbage is gone, and so is what was let go of for it: until then its holds count as somebody's."""
    gc.collect()
    CLOSER.wait()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, WIDTH)


# Calling


def test_an_attempt_answers_only_when_bound_and_leaves_the_arguments_otherwise(x: Tensor) -> None:
    region, (w, b) = Region(), layer()
    args = [x, w, b]
    assert region.bound.attempt(args) is None
    assert args[0] is x
    assert len(args) == 3
    work = region.bound.prepare(args)
    assert work is not None
    assert region.opened == []
    work()
    assert region.bound.prepare(args) is None
    assert region.bound.attempt(args) is not None
    assert args == []
    assert region.opened == [(1, 2)]


def test_what_was_released_is_opened_again_when_it_is_needed(x: Tensor) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    region.bound.release()
    assert region.bound.memory_bytes == 0
    assert region.bound.attempt([x, w, b]) is None
    assert region.right(x, w, b)
    assert len(region.opened) == 2
    assert region.bound.reason is None


class Told(Product):
    """Tells in which thread it is closed."""

    closed: list[int] = []  # noqa: RUF012  (one for the tests, which empty it)

    def __del__(self) -> None:
        self.closed.append(threading.get_ident())


@pytest.mark.parametrize("how", ["released", "dead", "stale"])
def test_a_session_is_closed_and_memory_given_back_beside_the_caller(
    x: Tensor, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "BATCH_S", 60.0)
    monkeypatch.setattr(closing, "AGAIN_S", 60.0)
    CLOSER.wait()
    given_back: list[int] = []
    monkeypatch.setattr(closing.procfs, "give_back", lambda: given_back.append(threading.get_ident()))
    monkeypatch.setattr(Told, "closed", [])
    region, (w, b) = Region(opener=Told), layer()
    assert region.right(x, w, b)
    if how == "released":
        region.bound.release()
    elif how == "dead":
        del w, b
        gc.collect()
    else:
        with torch.no_grad():
            w += 1
        assert region.right(x, w, b)
    CLOSER.wait()
    assert len(Told.closed) == 1
    assert len(given_back) == 1
    assert threading.get_ident() not in (*Told.closed, *given_back)


def test_who_lets_go_does_not_wait_for_a_session_that_is_being_opened(x: Tensor) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def slow(weights: dict[int, Tensor]) -> Product:
        opening.set()
        assert go_on.wait(20)
        return Product(weights)

    region, (w, b) = Region(opener=slow), layer()
    work = region.bound.prepare([x, w, b])
    assert work is not None
    thread = threading.Thread(target=work)
    thread.start()
    assert opening.wait(20)
    region.bound.release()
    assert not go_on.is_set()
    go_on.set()
    thread.join(20)


def test_layers_have_sessions_of_their_own_and_each_is_opened_once(x: Tensor) -> None:
    region, layers = Region(), [layer() for _ in range(4)]
    for _ in range(3):
        assert all(region.right(x, w, b) for w, b in layers)
    assert len(region.opened) == 4
    assert region.bound.sets == 4
    assert region.bound.memory_bytes == 4 * 4 * (WIDTH * WIDTH + WIDTH)
    assert region.bound.reason is None


def test_arguments_that_do_not_fit_are_refused_and_left(x: Tensor) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    for wrong in (x.double(), x[:, :5], x[None], 3, x.to("meta")):
        args = [wrong, w, b]
        assert region.bound.attempt(args) is None
        work = region.bound.prepare(args)
        assert work is not None
        with pytest.raises(EngineError, match="here"):
            work()
        with pytest.raises(EngineError):
            region.bound(args)
        assert len(args) == 3
    assert len(region.opened) == 1


def test_weights_as_inputs_are_never_bound(x: Tensor) -> None:
    region, (w, b) = Region("input"), layer()
    for _ in range(5):
        w.data += 1
        assert region.right(x, w, b)
    assert region.opened == [()]
    assert region.bound.memory_bytes == 0


def test_an_engine_that_cannot_open_says_so_each_time(x: Tensor) -> None:
    def fail(_: dict[int, Tensor]) -> Any:
        raise EngineError("no")

    region, (w, b) = Region(opener=fail), layer()
    args = [x, w, b]
    for _ in range(2):
        with pytest.raises(EngineError):
            region.bound(args)
    assert len(args) == 3


# Weights that change


def optimizer_step(w: nn.Parameter) -> None:
    w.grad = torch.ones_like(w)
    torch.optim.SGD([w], lr=0.1).step()


def load_state(w: nn.Parameter) -> None:
    module = nn.Linear(WIDTH, WIDTH, bias=False)
    module.weight = w
    module.load_state_dict({"weight": torch.randn(WIDTH, WIDTH)})


def merged(w: nn.Parameter) -> None:
    w.data += torch.randn(WIDTH, 4) @ torch.randn(4, WIDTH)


def replaced(w: nn.Parameter) -> None:
    w.data = torch.randn(WIDTH, WIDTH)


def one_row(w: nn.Parameter) -> None:
    with torch.no_grad():
        w[7] = 5.0


def swapped(w: nn.Parameter) -> None:
    w.data = w.data.flip(0)


@pytest.mark.parametrize("change", [optimizer_step, load_state, merged, replaced, one_row, swapped])
def test_changes_are_noticed_before_the_next_answer(
    change: Callable[[nn.Parameter], None], x: Tensor, told: bool
) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    change(w)
    assert region.bound.attempt([x, w, b]) is None
    assert region.right(x, w, b)
    assert len(region.opened) == 2
    assert region.bound.sets == 1
    assert region.right(x, w, b)
    assert len(region.opened) == 2


def test_parameters_exchanged_between_layers_are_told_apart(x: Tensor, told: bool) -> None:
    region, (w, b), (v, c) = Region(), layer(), layer()
    assert region.right(x, w, b)
    assert region.right(x, v, c)
    assert region.right(x, w, c)
    assert region.right(x, v, b)


def test_sets_that_share_a_weight_are_bound_beside_each_other(x: Tensor) -> None:
    region, (w, _) = Region(), layer()
    small = [nn.Parameter(torch.randn(WIDTH)) for _ in range(5)]
    for _ in range(3):
        assert all(region.right(x, w, b) for b in small)
    assert len(region.opened) == 5
    assert region.bound.reason is None
    small.pop()
    collected()
    assert region.bound.sets == 4
    del w
    collected()
    assert region.bound.sets == 0


def test_weights_of_inference_mode_are_packed_only_where_writes_are_seen(x: Tensor, told: bool) -> None:
    with torch.inference_mode():
        w, b = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH)
        region = Region()
        for _ in range(3):
            assert region.right(x, w, b)
            assert region.right(x, w, b)
            w[50] += 1
    assert region.opened == ([(1, 2)] * 3 if told else [()])
    assert (region.bound.reason is None) == told


def test_memory_that_other_processes_write_is_read_unless_a_copy_is_asked_for(x: Tensor, told: bool) -> None:
    w, b = torch.randn(WIDTH, WIDTH).share_memory_(), torch.randn(WIDTH)
    region = Region()
    assert region.right(x, w, b)
    child = os.fork()
    if not child:
        w[3] = 1
        os._exit(0)
    os.waitpid(child, 0)
    assert region.right(x, w, b)
    assert region.opened == [()]
    assert region.bound.reason is not None
    assert region.bound.reason.kind is ReasonKind.FALLBACK
    insisting = Region("constant")
    assert insisting.right(x, w, b)
    assert insisting.opened == [(1, 2)]


def test_a_write_that_nothing_counts_is_answered_with_new_weights(x: Tensor, told: bool) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    w.detach().numpy()[77] += 3
    late = 0
    while not region.right(x, w, b):
        late += 1
    assert late == 0 if told else late <= rotation.MAX_CALLS
    assert len(region.opened) == 2


def test_two_regions_with_the_same_weights_both_notice(x: Tensor, told: bool) -> None:
    regions, (w, b) = [Region(), Region()], layer()
    for _ in range(2):
        assert all(region.right(x, w, b) for region in regions)
        w.data += 1
    assert [len(region.opened) for region in regions] == [2, 2]


def test_tensors_can_be_swapped_after_packing(x: Tensor, told: bool) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    torch.utils.swap_tensors(w, nn.Parameter(torch.randn(WIDTH, WIDTH)))
    assert region.right(x, w, b)
    assert len(region.opened) == 2
    collected()
    assert region.bound.sets == 1


def test_a_call_is_timed_where_weights_are_read_by_turns(x: Tensor, told: bool) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    (bound,) = region.bound._sets.values()
    assert isinstance(bound.session, Product) == told
    assert bound.session.memory_bytes == 4 * (WIDTH * WIDTH + WIDTH)


@pytest.mark.parametrize("change", [merged, replaced])
def test_weights_that_change_again_and_again_are_read_from_then_on(
    change: Callable[[nn.Parameter], None], x: Tensor, told: bool
) -> None:
    region, (w, b) = Region(), layer()
    for _ in range(3 * MAX_REBINDS):
        change(w)
        assert region.right(x, w, b)
    assert region.bound.reason is not None
    assert region.bound.reason.kind is ReasonKind.FALLBACK
    assert region.opened[-1] == ()
    assert region.opened.count(()) == 1
    assert region.bound.memory_bytes == 0


def test_changes_far_apart_are_bound_anew_each_time(x: Tensor, told: bool) -> None:
    region, (w, b) = Region(), layer()
    for _ in range(MAX_REBINDS + 2):
        w.data += 1
        assert region.right(x, w, b)
        for _ in range(REBIND_WINDOW):
            assert region.bound.attempt([x, w, b]) is not None
    assert region.bound.reason is None
    assert () not in region.opened


def test_constant_stays_constant(x: Tensor, told: bool) -> None:
    region, (w, b) = Region("constant"), layer()
    for _ in range(MAX_REBINDS + 3):
        w.data += 1
        assert region.right(x, w, b)
    assert () not in region.opened


def test_weights_that_change_while_they_are_packed_are_packed_again(x: Tensor, told: bool) -> None:
    w, b = layer()
    changes = [1]

    def slow(weights: dict[int, Tensor]) -> Any:
        session = Product(weights)
        if changes:
            w.data += changes.pop()
        return session

    region = Region(opener=slow)
    assert region.right(x, w, b)
    assert len(region.opened) == 2


def test_weights_that_never_hold_still_are_read(x: Tensor, told: bool) -> None:
    w, b = layer()

    def busy(weights: dict[int, Tensor]) -> Any:
        session = Product(weights)
        w.data += 1
        return session

    region = Region(opener=busy)
    with pytest.raises(EngineError):
        region.bound([x, w, b])


def test_the_number_of_threads_is_part_of_a_session(x: Tensor) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert region.bound.attempt([x, w, b]) is None
        assert region.right(x, w, b)
    finally:
        torch.set_num_threads(before)
    assert len(region.opened) == 2
    assert region.bound.reason is None


# Weights that go away


def test_sessions_go_with_their_weights(x: Tensor) -> None:
    region = Region()
    layers = [layer() for _ in range(3)]
    assert all(region.right(x, w, b) for w, b in layers)
    layers.pop()
    collected()
    assert region.bound.sets == 2
    layers.clear()
    collected()
    assert region.bound.sets == 0


def test_a_weight_whose_memory_is_shared_with_somebody_keeps_its_session_until_that_goes(x: Tensor) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    alias = w.detach()
    del w
    collected()
    assert region.bound.sets == 1
    assert region.right(x, alias, b)
    assert len(region.opened) == 1
    del alias
    collected()
    assert region.bound.sets == 0


def test_fresh_objects_over_the_same_weights_find_their_session(x: Tensor) -> None:
    region, (w, b) = Region(), layer()
    for _ in range(4):
        assert region.right(x, w.detach(), b.detach())
        collected()
    assert len(region.opened) == 1


# Threads and processes


def test_threads_that_ask_at_once_open_one_session(x: Tensor) -> None:
    gate, wrong = threading.Barrier(6), []

    def slow(weights: dict[int, Tensor]) -> Any:
        threading.Event().wait(0.05)
        return Product(weights)

    region, (w, b) = Region(opener=slow), layer()

    def call() -> None:
        gate.wait()
        if not region.right(x, w, b):
            wrong.append(1)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(region.opened) == 1


def test_a_forked_child_opens_sessions_of_its_own(x: Tensor, told: bool) -> None:
    region, (w, b) = Region(), layer()
    assert region.right(x, w, b)
    child = os.fork()
    if not child:
        fresh = region.bound.attempt([x, w, b]) is None and region.bound.sets == 0
        os._exit(0 if fresh else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert region.bound.attempt([x, w, b]) is not None


# The feeder


def test_the_feeder_shares_what_it_can_and_copies_what_it_must() -> None:
    feeder = Feeder([Fed(name="p0", place=0, dtype="float32", sizes=(2, None))])
    plain = torch.randn(2, 3)
    assert feeder.tensors([plain])[0] is plain
    for other in (torch.randn(3, 2).t(), torch._neg_view(torch.randn(2, 3)), torch._efficientzerotensor((2, 3))):
        assert feeder.takes([other])
        (given,) = feeder.tensors([other])
        assert torch.equal(given, other.clone())
        assert given.is_contiguous()
        assert given.data_ptr()
        assert not given.is_neg()


def test_numbers_are_fed_as_tensors_and_nothing_else_is() -> None:
    feeder = Feeder([Fed(name="p1", place=1, dtype="int64", sizes=())])
    assert feeder.takes([None, 7])
    assert feeder.tensors([None, 7])[0].item() == 7
    for wrong in (True, 7.0, None, "7", torch.tensor(7.0)):
        assert not feeder.takes([None, wrong])
        assert feeder.refusal([None, wrong]) is not None
