"""Graphs over the same weights keep one copy of them together: that which saves the most time of all their calls."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping, Sequence
from random import Random

import pytest
import torch

from djinn_fx.dispatch.contests import copies as copies_module
from djinn_fx.dispatch.contests.own_ops import OwnOps
from djinn_fx.dispatch.contests.sharing import SharingContest
from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.reasons import ReasonKind
from tests.dispatch.contests.test_contest import Clock, Late, Plain, clock, wait_for
from tests.dispatch.contests.test_trial import Copies, Packing

__all__ = ["clock"]

#: Seconds of a call by engine. The last runs on own ops.
Times = Mapping[str, float]
PREFILL: Times = {"openvino": 8.0, "onnxruntime": 9.0, "packed": 8.5, "eager": 12.0}


def graph(clock: Clock, times: Times, copies: Copies, weights: Sequence[torch.Tensor]) -> SharingContest:
    """A contest between these engines, all but eager with copies of the weights."""
    entrants = [
        Entrant(name, Packing(clock, seconds, copies), copy=(name,) if name == "packed" else (name, object()))
        for name, seconds in times.items()
        if name != "eager"
    ]
    entrants.append(Entrant("eager", Plain(clock, times["eager"])))
    reference = OwnOps(Plain(clock, times["eager"]))
    return SharingContest(
        label="graph", entrants=entrants, reference=reference, waits=False, weights=lambda args: weights
    )


@pytest.fixture(autouse=True)
def weights_are_not_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of one copy."""
    monkeypatch.setattr(copies_module, "ROOM", 0)


def generate(prefill: SharingContest, decode: SharingContest, tokens: int, times: int = 60) -> None:
    """Call prefill once and decode for each token, until both are decided."""
    for _ in range(times):
        for contest in (prefill, *[decode] * tokens):
            wait_for(lambda: not prefill.pending and not decode.pending)
            assert list(contest([1])) == [2]
    assert prefill.decided
    assert decode.decided
    wait_for(lambda: not prefill.pending and not decode.pending)
    for contest in (prefill, decode):
        assert list(contest([1])) == [2]
    wait_for(lambda: not prefill.pending and not decode.pending)


def a_weight() -> list[torch.Tensor]:
    return [torch.zeros(250)]


@pytest.mark.parametrize(
    ("decode", "expected"),
    [
        # A decode step saves 3 in each of 16 calls, a prefill 4 in one.
        ({"openvino": 2.0, "onnxruntime": 2.5, "packed": 4.5, "eager": 5.0}, ("eager", "openvino")),
        # It saves next to nothing: the copy is prefill's.
        ({"openvino": 4.99, "onnxruntime": 5.2, "packed": 5.1, "eager": 5.0}, ("openvino", "eager")),
        # What both can share saves more than what is best for either.
        ({"openvino": 4.9, "onnxruntime": 5.0, "packed": 4.8, "eager": 5.0}, ("packed", "packed")),
    ],
)
def test_the_copy_that_saves_the_most_is_kept(clock: Clock, decode: Times, expected: tuple[str, str]) -> None:
    copies, weights = Copies(), a_weight()
    first, second = graph(clock, PREFILL, copies, weights), graph(clock, decode, copies, weights)
    generate(first, second, 16)
    assert (first.engine, second.engine) == expected
    # Two sessions of the packed engine count twice here; in truth they hold one (tests/engines/packed/test_shared.py).
    assert copies.now == (2 if expected == ("packed", "packed") else 1)
    # What two graphs hold while a third engine is on trial, and one more where sessions share.
    assert copies.most <= 3 if expected == ("packed", "packed") else copies.most == 2
    beaten = [
        one.reason for each in (first, second) for one in each.entrants if one.state is State.BEATEN and one.reason
    ]
    assert all(reason.kind is ReasonKind.ENGINE_REFUSED for reason in beaten)


def test_who_loses_the_copy_goes_on_with_the_best_of_the_others(clock: Clock) -> None:
    """Not with who is on trial at that moment."""
    copies, weights = Copies(), a_weight()
    first = graph(clock, {"openvino": 3.0, "onnxruntime": 9.0, "packed": 8.0, "eager": 5.0}, copies, weights)
    second = graph(clock, {"openvino": 1.0, "onnxruntime": 2.0, "packed": 5.0, "eager": 9.0}, copies, weights)
    generate(first, second, 2)
    assert (first.engine, second.engine, copies.now) == ("eager", "openvino", 1)


def test_a_graph_that_is_seldom_called_does_not_keep_the_others_from_being_tried(clock: Clock) -> None:
    """Prefill has an engine on trial from one prompt to the next; decode is called all the while."""
    copies, weights = Copies(), a_weight()
    prefill = graph(clock, PREFILL, copies, weights)
    decode = graph(clock, {"openvino": 2.5, "eager": 5.0}, copies, weights)
    late = Late("onnxruntime", Packing(clock, 1.0, copies))
    late.copy = ("onnxruntime", object())
    decode.entrants = (*decode.entrants, late)
    calls = [*[decode] * 40, *[prefill] * 2, *[decode] * 100]
    for number, contest in enumerate(calls):
        wait_for(lambda: not prefill.pending and not decode.pending)
        assert list(contest([1])) == [2]
        late.here = number > 42
    assert decode.engine == "onnxruntime"
    assert copies.most == 2


def test_who_needs_a_copy_that_is_there_is_tried_before_others(clock: Clock) -> None:
    copies, weights = Copies(), a_weight()
    decode = graph(clock, {"packed": 1.0, "eager": 5.0}, copies, weights)
    while not decode.decided:
        wait_for(lambda: not decode.pending)
        decode([1])
    prefill = graph(clock, PREFILL, copies, weights)
    for _ in range(3):
        prefill([1])
        wait_for(lambda: not prefill.pending)
    tried = [one.engine for one in prefill.entrants if one.state in (State.TRIAL, State.SERVING)]
    assert "packed" in tried
    assert "onnxruntime" not in tried


DECODE: Times = {"openvino": 2.0, "eager": 5.0}


class TestOutweighed:
    """A graph whose calls take less altogether than the copy of another saves makes none of its own."""

    def call(self, contests: Sequence[SharingContest]) -> None:
        for contest in contests:
            wait_for(lambda: not any(one.pending for one in contests))
            assert list(contest([1])) == [2]
        wait_for(lambda: not any(one.pending for one in contests))

    def test_it_is_not_made(self, clock: Clock) -> None:
        copies, weights = Copies(), a_weight()
        decode = graph(clock, DECODE, copies, weights)
        self.call([decode] * 40)
        prefill = graph(clock, {**PREFILL, "packed": 20.0}, copies, weights)
        self.call([prefill])  # too early to tell
        assert copies.now == 2
        self.call([decode] * copies_module.ENOUGH)
        for _ in range(40):
            self.call([prefill, *[decode] * 16])
            assert copies.now == 1
        assert (prefill.engine, prefill.decided) == ("eager", True)

    def test_it_is_tried_once_the_graph_is_called_more_often(self, clock: Clock) -> None:
        copies, weights = Copies(), a_weight()
        prefill, decode = graph(clock, PREFILL, copies, weights), graph(clock, DECODE, copies, weights)
        self.call([prefill, *[decode] * 200])
        assert (prefill.engine, copies.now) == ("eager", 1)
        before = copies.most
        self.call([prefill] * 200)
        assert copies.most == max(before, 2)
        tried = {one.engine for one in prefill.entrants if one.answers > 1}
        assert tried >= {"openvino", "onnxruntime", "packed"}
        assert prefill.decided

    def test_one_that_is_on_trial_lets_go_though_it_is_not_called(self, clock: Clock) -> None:
        copies, weights = Copies(), a_weight()
        prefill, decode = graph(clock, PREFILL, copies, weights), graph(clock, DECODE, copies, weights)
        self.call([prefill, prefill, prefill])
        assert prefill.trying
        self.call([decode] * 200)
        assert (decode.engine, copies.now) == ("openvino", 1)

    @pytest.mark.parametrize("own", [12.0, 0.5])
    def test_what_others_would_have_of_it_counts(self, clock: Clock, own: float) -> None:
        """One that all can use is made, where it is not known to be worse for the others."""
        copies, weights = Copies(), a_weight()
        decode = graph(clock, {**DECODE, "packed": 1.9}, copies, weights)
        prefill = graph(clock, {"packed": 0.4, "eager": own}, copies, weights)
        self.call([prefill, *[decode] * 200])
        for _ in range(40):
            self.call([prefill, *[decode] * 16])
        assert prefill.decided
        assert (prefill.engine, decode.engine) == ("packed", "packed")


@pytest.mark.parametrize("room", [1, 2, 3])
def test_small_weights_have_as_many_copies_as_fit(clock: Clock, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    copies, weights = Copies(), a_weight()
    nbytes = sum(one.untyped_storage().nbytes() for one in weights)
    monkeypatch.setattr(copies_module, "ROOM", (room + 1) * nbytes - 1)
    decode = {"openvino": 2.0, "onnxruntime": 2.5, "packed": 4.5, "eager": 5.0}
    first, second = graph(clock, PREFILL, copies, weights), graph(clock, decode, copies, weights)
    generate(first, second, 16)
    # Each its own best where two fit.
    assert (first.engine, second.engine) == ("eager" if room == 1 else "openvino", "openvino")
    assert copies.now == min(room, 2)
    assert copies.most <= room + 1


def test_where_no_copy_is_worth_it_there_is_none(clock: Clock) -> None:
    copies, weights = Copies(), a_weight()
    times = {"openvino": 4.95, "onnxruntime": 5.5, "packed": 5.0, "eager": 5.0}
    first, second = graph(clock, times, copies, weights), graph(clock, times, copies, weights)
    generate(first, second, 4)
    assert (first.engine, second.engine, copies.now) == ("eager", "eager", 0)


def test_graphs_over_other_weights_keep_their_own(clock: Clock) -> None:
    copies = Copies()
    first, second = graph(clock, PREFILL, copies, a_weight()), graph(clock, PREFILL, copies, a_weight())
    generate(first, second, 4)
    assert (first.engine, second.engine, copies.now) == ("openvino", "openvino", 2)


@pytest.mark.parametrize("seed", range(20))
def test_any_number_of_graphs_ends_with_one_copy(clock: Clock, seed: int) -> None:
    """Called in any order, whatever the engines take: trials end, and nobody keeps what another copy rules out."""
    random = Random(seed)
    copies, weights = Copies(), a_weight()
    names = ["openvino", "onnxruntime", "packed", "eager"]
    graphs = [
        graph(clock, {name: random.uniform(1.0, 3.0) for name in names}, copies, weights)
        for _ in range(random.randint(2, 4))
    ]
    often = [random.choice((1, 3, 10)) for _ in graphs]
    for contest in random.choices(graphs, often, k=150 * len(graphs)) + graphs * 150:
        wait_for(lambda: not any(one.pending for one in graphs))
        assert list(contest([1])) == [2]
        kept = {one.copy for each in graphs for one in each.options(1000) if one.kept} - {None}
        if all(one.decided for one in graphs) and len(kept) <= 1:
            break
    assert all(one.decided for one in graphs)
    assert len(kept) <= 1
    serving = [next(one for one in each.options(1000) if one.engine == each.engine) for each in graphs]
    assert all(one.copy is None or one.copy in kept for one in serving)


def test_who_is_called_again_gets_the_copy_back(clock: Clock) -> None:
    """What was let go of for another graph is opened anew beside calls; own ops answer meanwhile."""
    copies, weights = Copies(), a_weight()
    first = graph(clock, PREFILL, copies, weights)
    for _ in range(60):
        wait_for(lambda: not first.pending)
        first([1])
    assert first.engine == "openvino"
    second = graph(clock, {"openvino": 1.0, "onnxruntime": 2.0, "packed": 2.0, "eager": 9.0}, copies, weights)
    for _ in range(2 * copies_module.ENOUGH):
        wait_for(lambda: not second.pending)
        second([1])
    assert (first.engine, second.engine, copies.now) == ("eager", "openvino", 1)
    reason = next(one.reason for one in first.entrants if one.engine == "openvino")
    assert reason is not None
    assert "copy of the weights" in reason.detail


def test_calls_of_both_in_threads(clock: Clock) -> None:
    """Two graphs tell each other to let go while they are called: no call is held up for ever, none is wrong."""
    copies, weights = Copies(), a_weight()
    decode = {"openvino": 2.0, "onnxruntime": 2.5, "packed": 4.5, "eager": 5.0}
    contests = [graph(clock, PREFILL, copies, weights), graph(clock, decode, copies, weights)]
    wrong: list[object] = []

    def call(contest: SharingContest) -> None:
        for value in range(400):
            found = list(contest([value]))
            wrong.extend([] if found == [value + 1] else [found])

    threads = [threading.Thread(target=call, args=(contest,), daemon=True) for contest in contests for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_a_call_that_another_thread_has_reopened_the_trial_for_is_answered(clock: Clock) -> None:
    """It had come to the engine that served; that is out, as its copy of the weights would be the second."""
    contest = graph(clock, PREFILL, Copies(), a_weight())
    while not contest.decided:
        wait_for(lambda: not contest.pending)
        contest([1])
    answer = contest._answer
    assert contest.engine == "openvino"
    contest._reopen(next(one for one in contest.entrants if one.engine == "openvino"))
    assert list(answer([1])) == [2]


def test_what_is_known_of_weights_goes_with_their_graphs(clock: Clock) -> None:
    copies = Copies()
    contest = graph(clock, PREFILL, copies, a_weight())
    contest([1])
    (before,) = [one for one in copies_module._ALL if contest in one.members]
    while contest.pending:
        time.sleep(0.01)
    del contest
    gc.collect()
    assert not before.members
    other = graph(clock, PREFILL, copies, a_weight())
    other([1])
    assert before not in copies_module._ALL


@pytest.mark.parametrize("prefill", [PREFILL, {**PREFILL, "eager": 38.0}], ids=["a little", "much"])
def test_what_an_earlier_process_measured_decides_too(clock: Clock, prefill: Times) -> None:
    """In the second process there is no trial: each graph's own winner is opened, then one copy is kept.

    By how often each graph is called, which its first calls do not tell: a prefill saves more than ten decode steps.
    """
    copies, weights = Copies(), a_weight()
    decode = {"openvino": 2.0, "onnxruntime": 2.5, "packed": 4.5, "eager": 5.0}
    told: list[object] = []

    def known(times: Times) -> SharingContest:
        contest = graph(clock, times, copies, weights)
        contest._trial.known = "openvino"
        contest._decided = lambda engine, seconds: told.extend([engine] if len(seconds) > 1 else [])
        for entrant in contest.entrants:
            entrant.known_s = times[entrant.engine]
        return contest

    first, second = known(prefill), known(decode)
    generate(first, second, 16, times=6)
    assert (first.engine, second.engine, copies.now) == ("eager", "openvino", 1)
    assert copies.most == 2
    # What is noted for later processes stays who was the fastest for each graph: they may have other graphs.
    assert told == []
