"""Sharing a row of units out: equal to trying everything, within memory, as pins say."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from djinn_fx.passes.placing.chain import Held, Row, Shares, _orders, along, by_cuts, figure_of, smallest_room
from djinn_fx.passes.placing.solved import by_solver, shared_out

INFINITE = (math.inf, math.inf, math.inf)


def row(*seconds: float, devices: int = 2, **changes: object) -> Row:
    count = len(seconds)
    facts: dict[str, object] = {
        "seconds": tuple((one,) * devices for one in seconds),
        "held": (),
        "live": (0,) * count,
        "rooms": INFINITE[:devices],
        "crossing": (0,) * count,
        "moving_s": lambda source, target, nbytes: 0.0,
        "fixed": (None,) * count,
    }
    return Row(**{**facts, **changes})  # type: ignore[arg-type]


def figure(problem: Row, devices: tuple[int, ...]) -> float:
    """Of an answer, from the definition; infinite if it breaks a rule."""
    places = range(len(devices))
    runs = [list(group) for _, group in itertools.groupby(places, key=devices.__getitem__)]
    owners = [devices[run[0]] for run in runs]
    if len(set(owners)) < len(owners):
        return math.inf
    if any(problem.fixed[place] not in (None, devices[place]) for place in places):
        return math.inf
    if any(len(set(devices[first : last + 1])) > 1 for first, last in problem.together):
        return math.inf
    loads, moves = [], []
    for run, owner in zip(runs, owners, strict=True):
        memory = sum(one.nbytes for one in problem.held if set(one.users) & set(run)) + max(
            problem.live[place] for place in run
        )
        if memory > problem.rooms[owner]:
            return math.inf
        loads.append(sum(problem.seconds[place][owner] for place in run))
    for (source, _), (target, run) in itertools.pairwise(zip(owners, runs, strict=True)):
        moves.append(problem.moving_s(source, target, problem.crossing[run[0]]))
    return max(*loads, *moves, 0.0) if problem.throughput else sum(loads) + sum(moves)


def random_row(chance: random.Random, throughput: bool) -> Row:
    count, devices = chance.randint(1, 7), 3
    pairs = sorted(chance.sample(range(count), 2)) if count > 1 and chance.random() < 0.3 else None
    return Row(
        seconds=tuple(tuple(chance.randint(1, 9) for _ in range(devices)) for _ in range(count)),
        held=tuple(
            Held(
                nbytes=chance.randint(1, 5), users=tuple(sorted(chance.sample(range(count), chance.randint(1, count))))
            )
            for _ in range(3)
        ),
        live=tuple(chance.randint(0, 3) for _ in range(count)),
        rooms=tuple(chance.choice([8, 14, math.inf]) for _ in range(devices)),
        crossing=tuple(chance.randint(0, 4) for _ in range(count)),
        moving_s=lambda source, target, nbytes: nbytes * (1 + abs(source - target)) / 2,
        fixed=tuple(chance.choice([None, None, None, 0, 1]) for _ in range(count)),
        together=((pairs[0], pairs[1]),) if pairs else (),
        throughput=throughput,
    )


@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_equal_to_trying_everything(seed: int, throughput: bool) -> None:
    problem = random_row(random.Random(seed), throughput)
    count = len(problem.seconds)
    for used in ([0], [1, 2], [0, 1, 2]):
        answers = [a for a in itertools.product(used, repeat=count) if set(a) == set(used)]
        best = min((figure(problem, answer) for answer in answers), default=math.inf)
        assert all(figure_of(problem, answer) == pytest.approx(figure(problem, answer)) for answer in answers)
        found = by_cuts(problem, used)
        assert (found is None) == math.isinf(best)
        if found is not None:
            assert found.figure_s == pytest.approx(best)
            assert figure(problem, found.devices) == pytest.approx(best)


def test_what_is_used_on_both_sides_is_held_on_both() -> None:
    shared = (Held(nbytes=6, users=(0, 1)),)
    assert by_cuts(row(1, 1, held=shared, rooms=(6, 5), throughput=True), [0, 1]) is None
    assert by_cuts(row(1, 1, held=shared, rooms=(6, 6), throughput=True), [0, 1]) is not None


def test_the_smallest_room_is_the_least_that_would_do() -> None:
    held = tuple(Held(nbytes=size, users=(place,)) for place, size in enumerate((5, 3, 4, 6)))
    problem = row(1, 1, 1, 1, held=held, live=(1, 1, 1, 1))
    assert smallest_room(problem, 1) == 19
    assert smallest_room(problem, 2) == 11
    assert smallest_room(problem, 3) == 8


def test_pins_to_and_fro_are_followed() -> None:
    fixed = (0, None, 1, 0, None)
    problem = row(1, 1, 1, 1, 1, fixed=fixed, moving_s=lambda source, target, nbytes: float(source != target))
    assert by_cuts(problem, [0, 1]) is None
    found = along(problem)
    assert found is not None
    assert all(one in (None, other) for one, other in zip(fixed, found.devices, strict=True))
    assert found == Shares(devices=found.devices, figure_s=7.0)
    assert found.used == (0, 1)


@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_solver_s_answers_keep_the_rules_and_are_about_as_good(seed: int, throughput: bool) -> None:
    problem = random_row(random.Random(seed), throughput)
    exact = [one for used in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]) if (one := by_cuts(problem, used))]
    found = by_solver(problem, [0, 1, 2], seconds=0.05)
    if found is not None:
        best = min(one.figure_s for one in exact)
        assert best - 1e-9 <= found.figure_s <= 2 * best
        assert figure(problem, found.devices) == pytest.approx(found.figure_s)


def test_many_devices_share_a_row_out_evenly() -> None:
    problem = row(*[1.0] * 24, devices=8, rooms=(math.inf,) * 8, throughput=True)
    found = shared_out(problem, range(8))
    assert found is not None
    assert found.figure_s == pytest.approx(3.0)


def test_devices_that_are_alike_are_tried_in_one_order() -> None:
    alike = row(*[1.0] * 9, devices=3)
    other = row(*[1.0] * 9, devices=3, rooms=(math.inf, 5.0, math.inf))
    assert list(_orders(alike, [0, 1, 2])) == [(0, 1, 2)]
    assert len(list(_orders(other, [0, 1, 2]))) == 6
