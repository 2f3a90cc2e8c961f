"""Sessions on real models over a pool that holds less than half of their caches.

* The same: at least 64 sessions alive of each kind of cache, tokens and cached bytes against the same schedule of steps
  with room for all (bit-equal), and tokens against another schedule (each divergence with its logit gap).
* Times: what each step was predicted to take, against what it took.
* Waking: from a turn's coming to its first token, of sessions that left the device, interleaved with Transformers' own
  continuous batching, which computes the context again, and with a plain forward of the whole context.
* Swaps: pages that leave and return a hundred thousand times; nothing is lost and no page leaks.

    python bench/sessions/real.py --json bench/results/sessions_real.json
    python bench/sessions/real.py --quick
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import transformers

import djinn_fx
from bench.harness.harness import Report, parse, parser, ratio, successive, table
from bench.sessions.kinds import KINDS, build, managed, tokens, turn
from djinn_fx.sessions.caches.model import SessionModel
from djinn_fx.sessions.conversation import Answered, Conversation
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.pools.arena import Arena
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.pools.moves import ManualMover
from djinn_fx.sessions.pools.store import Store

Asked = dict[str, list[tuple[int, ...]]]

ALIVE, OVER = 64, 2.0
TIMES_BAR, WAKE_BAR, SIGNAL_BAR = 0.15, 2.0, 20e-6
MADE = 4
#: Shapes of steps are new at first, and what they take is not known.
LEARNT = 0.25


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=24)
    arguments = parse(made, argv)
    transformers.logging.set_verbosity_error()
    report = Report("sessions_real", arguments)
    rows = [_equal(kind, report, arguments.quick) for kind in KINDS]
    heads = ["cache", "alive", "KV ÷ pool", "evicted", "loaded", "steps", "bit-equal", "other schedule", "times off by"]
    print("\n" + table(heads, rows), flush=True)
    report.bar("sessions alive, fewest", min(row[1] for row in rows), ALIVE, ">=")
    report.bar("caches ÷ pool, least", min(float(row[2]) for row in rows), OVER, ">=")
    report.bar("kinds that are bit-equal to the same schedule with room for all", sum(row[6] for row in rows), 5, ">=")
    _wake(report, 6 if arguments.quick else arguments.runs, arguments.quick)
    _signals(report, 2_000 if arguments.quick else 20_000)
    _swaps(report, 2_000 if arguments.quick else 100_000)
    return report.finish()


# -- the same ---------------------------------------------------------------------------------------------------------


def _equal(kind: str, report: Report, quick: bool) -> list[Any]:
    """One kind of cache; a row of the table."""
    begun = time.perf_counter()
    context, rounds, alive = (32, 2, ALIVE) if quick else (96, 3, ALIVE)
    model = SessionModel.of(build(kind, 64 if quick else 128, 4), quantised=kind == "int8")
    need = model.layout.pages_for(context + rounds * (MADE + 8) + 4, 32)
    pages = max(int(alive * need / 3), 4 * need)
    small = managed(model, pages, 4 * alive * need, "lru-host")
    asked = {f"{kind}{place:03}": [tokens(context + place % 2 * 4, place)] for place in range(alive)}
    for place, key in enumerate(asked):
        small.open(key)
        asked[key] += [tokens(8, 1000 * number + place) for number in range(1, rounds)]
    order = random.Random(0)
    answers: dict[str, list[Answered]] = {key: [] for key in asked}
    over = 0.0
    for number in range(rounds):
        keys = order.sample(sorted(asked), len(asked))
        for key, answered in _go_on(small, {key: asked[key][number] for key in keys}).items():
            answers[key].append(answered)
        held = sum(len(one.holding) for one in small.conversations.values())
        over = held / pages if number == 0 else min(over, held / pages)
    with small.lock:
        check(small.store)
    roomy, wanted = _again(model, small, asked, alive * need * 2)
    same = all(
        [one.tokens for one in answers[key]] == [one.tokens for one in wanted[key]]
        and torch.equal(_bytes_of(small, small.conversations[key]), _bytes_of(roomy, roomy.conversations[key]))
        for key in asked
    )
    off, floor = _times(small), _floor(small)
    report.fact(f"{kind}: step times, a shape against its next", floor)
    other = _other_schedule(model, asked, wanted, pages, alive * need * 4)
    report.fact(f"{kind}: divergences on another schedule: tokens, logit gap", other)
    report.fact(f"{kind}: recomputed tokens", small.residency.recomputed_tokens)
    report.measured(f"{kind}: step times, off by", off, "share")
    report.bar(f"{kind}: step times, predicted against measured, median error", statistics.median(off), TIMES_BAR)
    counts = small.store.counts
    told = f"{len(other)} diverge" if other else "same tokens"
    print(f"{kind}: {small.made} steps, {time.perf_counter() - begun:.0f} s", flush=True)
    row = [
        kind, len(small.conversations), f"{over:.2f}", counts.evicted, counts.loaded, small.made, same, told,
        f"{statistics.median(off):.1%}",
    ]  # fmt: skip
    for manager in (small, roomy):
        manager.close()
    return row


def _go_on(manager: SessionManager, asked: dict[str, tuple[int, ...]]) -> dict[str, Answered]:
    turns = {}
    for key, new in asked.items():
        turns[key] = turn(manager, key, new, MADE)
        manager.submit(manager.conversations[key], turns[key])
    while any(one.turns for one in manager.conversations.values()):
        if manager.step() is None:
            time.sleep(0.0002)  # pages are on their way
    return {key: one.future.result(0) for key, one in turns.items()}


def _again(
    model: SessionModel, told: SessionManager, asked: Asked, pages: int
) -> tuple[SessionManager, dict[str, list[Answered]]]:
    """The same schedule of steps with room for all."""
    roomy = managed(model, pages, 0, "lru")
    answers: dict[str, list[Answered]] = {key: [] for key in asked}
    for key in asked:
        roomy.open(key)
    waiting = {key: list(new) for key, new in asked.items()}
    for step in told.steps:
        for key in step.sessions:
            one = roomy.conversations[key]
            if not one.turns:
                made = turn(roomy, key, waiting[key].pop(0), MADE)
                made.future.add_done_callback(lambda done, key=key: answers[key].append(done.result()))
                roomy.submit(one, made)
                roomy.provision.admit(one)
        assert roomy.step(step.sessions) is not None
    return roomy, answers


def _other_schedule(
    model: SessionModel,
    asked: dict[str, list[tuple[int, ...]]],
    wanted: dict[str, list[Answered]],
    pages: int,
    host: int,
) -> list[tuple[int, float]]:
    """Smaller batches, the default policy, other chunks: turns whose tokens differ, from which on, by which gap."""
    other = managed(model, pages, host, "djinn", batch=5, chunk=32)
    found = []
    for key in asked:
        other.open(key)
    for number in range(len(next(iter(asked.values())))):
        for key, answered in _go_on(other, {key: new[number] for key, new in asked.items()}).items():
            reference = wanted[key][number]
            pairs = enumerate(zip(answered.tokens, reference.tokens, strict=True))
            first = next((place for place, (one, two) in pairs if one != two), None)
            if first is not None:
                found.append((first, reference.gaps[first]))
        if found:
            break  # contexts differ from here on
    other.close()
    return found


def _bytes_of(manager: SessionManager, one: Conversation) -> torch.Tensor:
    table, store = manager.store.table, manager.store
    places = [(store.device, table.device[page]) for page in one.holding]
    for number, page in enumerate(one.holding):
        if table.device[page] < 0:
            assert store.host is not None
            places[number] = (store.host, table.host[page])
    return torch.stack([pool.memory[slot] for pool, slot in places])


def _times(manager: SessionManager) -> list[float]:
    """By which share each step's time was off, once shapes are known."""
    steps = list(manager.steps)[int(LEARNT * len(manager.steps)) :]
    return [abs(step.predicted_s - step.seconds) / step.seconds for step in steps if step.predicted_s is not None]


def _floor(manager: SessionManager) -> float:
    """Noise: by which share a step's time differs from the next one's of the same shape, in the median."""
    last: dict[object, float] = {}
    found = []
    for step in manager.steps:
        if step.shape in last:
            found.append(abs(last[step.shape] - step.seconds) / step.seconds)
        last[step.shape] = step.seconds
    return statistics.median(found) if found else 0.0


# -- waking -----------------------------------------------------------------------------------------------------------


def _wake(report: Report, runs: int, quick: bool) -> None:
    """First tokens of sessions that left, three ways, in turns."""
    context, alive = (256, 8) if quick else (768, ALIVE)
    module = build("full", 256, 4)
    model = SessionModel.of(module)
    need = model.layout.pages_for(context + runs * 16)
    manager = managed(model, int(alive * need / 2.5), 2 * alive * need, "djinn", chunk=256)
    keys = [f"s{place:03}" for place in range(alive)]
    capacity = manager.store.device.pages * model.layout.groups[0].page_tokens(model.layout.page_bytes)
    theirs = _continuous(module, context + runs * 16, capacity)
    for place, key in enumerate(keys):
        manager.open(key)
        _go_on(manager, {key: tokens(context, place)})
        _theirs(theirs, list(tokens(context, place)))
    order = random.Random(1)
    samples: dict[str, list[float]] = {"ours": [], "continuous batching": [], "plain forward": []}
    agree = 0
    for number in range(runs):
        gone = [key for key in keys if not manager.conversations[key].context.device_bytes]
        key = order.choice(gone or keys)
        new = tokens(8, 5000 + number)
        whole = [*manager.conversations[key].tokens, *new]
        ways = [
            ("ours", lambda key=key, new=new: _ours(manager, key, new)),
            ("continuous batching", lambda whole=whole: _theirs(theirs, whole)),
            ("plain forward", lambda whole=whole: _plain(module, whole)),
        ]
        tokens_found = {}
        for name, way in ways[number % 3 :] + ways[: number % 3]:
            begun = time.perf_counter()
            tokens_found[name] = way()
            samples[name].append(time.perf_counter() - begun)
        agree += len(set(tokens_found.values())) == 1
    theirs.stop(block=True)
    ours = report.measured("wake: ours", samples["ours"], "s")
    for name in ("continuous batching", "plain forward"):
        report.measured(f"wake: {name}", samples[name], "s")
        found = report.ratio(f"{name} / ours", ratio(samples[name], samples["ours"]), successive(samples["ours"]))
        print(f"wake, {name} / ours: {found.median:.1f}")
    report.fact("wakes in which all three gave one token", [agree, runs])
    times = statistics.median(samples["continuous batching"]) / ours
    print(f"wake P50 of {runs}: ours {ours * 1e3:.1f} ms; the same token three ways in {agree}")
    report.bar("wake P50: continuous batching / ours", times, WAKE_BAR, ">=")
    manager.close()


def _ours(manager: SessionManager, key: str, new: tuple[int, ...]) -> int:
    made = turn(manager, key, new, 1)
    manager.submit(manager.conversations[key], made)
    while not made.future.done():
        if manager.step() is None:
            time.sleep(0.0001)
    return made.future.result(0).tokens[0]


def _continuous(module: Any, longest: int, capacity: int) -> Any:
    """Transformers' own, with as much memory, and batches as long as a context: it computes one in a single step."""
    config = transformers.generation.configuration_utils.ContinuousBatchingConfig(
        num_blocks=-(-capacity // 256), max_batch_tokens=longest, use_cuda_graph=False
    )
    generation = transformers.GenerationConfig(max_new_tokens=1, do_sample=False, eos_token_id=-1, pad_token_id=0)
    manager = module.init_continuous_batching(generation_config=generation, continuous_batching_config=config)
    manager.start()
    _theirs(manager, list(tokens(64, 0)))
    return manager


def _theirs(manager: Any, whole: list[int]) -> int:
    request = manager.add_request(whole, max_new_tokens=1)
    while (found := manager.get_result(request_id=request, timeout=5)) is None:
        pass
    if found.error:
        raise RuntimeError(f"continuous batching failed: {found.error}")
    return int(found.generated_tokens[0])


def _plain(module: Any, whole: list[int]) -> int:
    with torch.no_grad():
        return int(module(torch.tensor([whole]), use_cache=True, logits_to_keep=1).logits[0, -1].argmax())


# -- signals ----------------------------------------------------------------------------------------------------------


def _signals(report: Report, count: int) -> None:
    """What a hint costs its caller, while the manager's thread heeds them."""
    model = build("full", 64, 4)
    manager = djinn_fx.open_sessions(model, device="8MB", host="8MB")
    keys = [f"agent{place}" for place in range(ALIVE)]
    for place, key in enumerate(keys):
        djinn_fx.session(model, key).generate(tokens(16, place), max_new_tokens=1)
    taken = []
    for number in range(count):
        begun = time.perf_counter()
        djinn_fx.signal_phase("IO_WAIT", keys[number % ALIVE], 500.0, "search")
        taken.append(time.perf_counter() - begun)
    manager.close()
    taken.sort()
    half, most = taken[count // 2], taken[int(count * 0.99)]
    report.fact("a signal, P50 and P99, s", [half, most])
    print(f"a signal: P50 {half * 1e6:.1f} µs, P99 {most * 1e6:.1f} µs")
    report.bar("a signal, P99, s", most, SIGNAL_BAR)


# -- swaps ------------------------------------------------------------------------------------------------------------


def _swaps(report: Report, cycles: int) -> None:
    """Pages leave and return at random; each keeps its number in all of its bytes."""
    size, pages = 256, 64
    store = Store(Arena(pages // 2, size, kept=1), Arena(pages, size))
    mover, order = ManualMover(store), random.Random(2)
    known: list[int] = []
    lost, done, begun = 0, 0, time.perf_counter()
    while len(known) < pages:
        made = store.allocate(pages // 4)
        if made is None:
            _carry(mover, store.evict(order.sample(known, len(known)))[1])
            continue
        for page in made:
            store.device.memory[store.table.device[page]] = page
        known += made
    while done < cycles:
        some = order.sample(known, 16)
        _carry(mover, store.evict(page for page in known if page not in some)[1])
        _carry(mover, store.load(some)[0])
        for page in some:
            row = store.device.memory[store.table.device[page]]
            lost += not bool((row == page).all())
            store.own(page)
        done += len(some)
    check(store)
    store.release(known)
    leaked = store.table.in_use + (store.device.pages - store.device.free)
    seconds = time.perf_counter() - begun
    print(f"{done} swap cycles in {seconds:.0f} s: {lost} lost, {leaked} leaked")
    report.fact("swap cycles", done)
    report.bar("pages lost in swap cycles", lost, 0)
    report.bar("pages leaked in swap cycles", leaked, 0)


def _carry(mover: ManualMover, jobs: list[Any]) -> None:
    for job in jobs:
        mover.submit(job)
    mover.run()


if __name__ == "__main__":
    sys.exit(main())
