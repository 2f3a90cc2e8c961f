"""Graphs over workers on a real Ray. One file, so that one process starts one Ray, and all of its tests share it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import djinn_fx
from djinn_fx.cli.main import main
from djinn_fx.errors import DeviceLostError, EngineError, SettingsError
from djinn_fx.hardware.topology.file import read_topology
from djinn_fx.reasons import ReasonKind
from djinn_fx.remote.wire.codecs import known
from djinn_fx.remote.wire.frame import encode
from djinn_fx.remote.workers import requests

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'djinn-fx[ray]'")

from djinn_fx.compiling.workers.spread import workers_of  # noqa: E402
from djinn_fx.remote.workers.guardian import marked  # noqa: E402
from djinn_fx.remote.workers.pool import Pool, Wanted, close_all, pool_of  # noqa: E402
from djinn_fx.remote.workers.there import look, workers_there  # noqa: E402
from djinn_fx.settings.devices import DeclaredLink  # noqa: E402
from djinn_fx.settings.table import Settings  # noqa: E402
from tests.exam.worker_faults import FAULTS, Session  # noqa: E402

pytestmark = pytest.mark.slow

OPTIONS = {"engine": "eager", "workers": "local:2", "worker_timeout": "5s"}
PINS = {"0-1": "worker:0", "2-3": "worker:1"}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers on this machine."""
    yield workers_of(Settings.load(options=OPTIONS)).pool
    close_all()


@pytest.fixture
def own_workers() -> None:
    """For a test that starts its workers anew: nobody need do it before."""


@pytest.fixture(autouse=True)
def _whole(pool: Pool, request: pytest.FixtureRequest) -> None:
    """Each test begins with both workers."""
    if "own_workers" not in request.fixturenames:
        begun_again(pool, sorted(pool.lost()))
    torch._dynamo.reset()


def begun_again(pool: Pool, names: Sequence[str]) -> None:
    """Side by side: a worker takes seconds to import what it needs."""
    with ThreadPoolExecutor(2) as threads:
        assert [one.lost for one in threads.map(pool.restart, names)] == [""] * len(names)


def layers(count: int = 4, width: int = 32, seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    blocks = [torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU()) for _ in range(count)]
    return torch.nn.Sequential(*blocks).eval()


def compiled(model: Any, **options: Any) -> Any:
    return torch.compile(model, backend="djinn", options={**OPTIONS, **options})


def devices() -> list[str]:
    return [region.device for region in djinn_fx.compilations()[-1].plan.regions]


def reasons(kind: ReasonKind) -> list[str]:
    return [one.detail for one in djinn_fx.compilations()[-1].reasons if one.kind is kind]


def sent(pool: Pool, kind: str) -> int:
    return sum(worker.sent[kind] for worker in pool.workers.values())


def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    return model


LLAMA_PINS = {"model.layers.0": "worker:0", "model.layers.1": "worker:1"}


class TestLlama:
    def test_logits_are_eagers(self) -> None:
        model, ids = llama(), torch.arange(9).view(1, -1)
        with torch.no_grad():
            got = compiled(model, pin=LLAMA_PINS)(ids, use_cache=False).logits
            torch.testing.assert_close(got, model(ids, use_cache=False).logits)
        assert devices() == ["worker:0", "worker:1"]

    @pytest.mark.filterwarnings("ignore")
    def test_generate_with_a_static_cache_gives_the_same_tokens(self, pool: Pool) -> None:
        model, ids = llama(), torch.arange(7).view(1, -1)
        how = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static", "disable_compile": True}
        with torch.no_grad():
            want = model.generate(ids, **how)
            model.forward = compiled(model.forward, pin=LLAMA_PINS)
            assert torch.equal(model.generate(ids, **how), want)
            before = sent(pool, requests.STATE)
            assert torch.equal(model.generate(ids, **how), want)  # another cache
        held = pool.status()
        assert all(one.weight_bytes > 0 and one.state_bytes > 0 for one in held.values())
        cache = sum(one.state_bytes for one in held.values())
        assert sent(pool, requests.STATE) - before < 3 * cache  # a cache goes there once, not with each token

    @pytest.mark.filterwarnings("ignore")
    def test_a_cache_that_the_user_writes_is_sent_again(self) -> None:
        transformers = pytest.importorskip("transformers")
        model, ids = llama(), torch.arange(5).view(1, -1)
        cache = transformers.StaticCache(config=model.config, max_cache_len=16)
        run = compiled(model, pin=LLAMA_PINS)

        def both(**more: Any) -> tuple[Any, Any]:
            return run(ids, past_key_values=cache, **more).logits, model(ids, use_cache=False).logits

        with torch.no_grad():
            for _ in range(2):
                got, want = both()
                torch.testing.assert_close(got, want)
                cache.reset()


class TestWeights:
    def test_of_weights_that_are_written_only_these_travel(self, pool: Pool) -> None:
        model, x = layers(), torch.ones(3, 32)
        run = compiled(model, pin=PINS)
        with torch.no_grad():
            torch.testing.assert_close(run(x), model(x))
            before = sent(pool, "weights")
            run(x)
            assert sent(pool, "weights") == before
            model[3][0].weight.data.mul_(2.0)  # torch counts no write here
            torch.testing.assert_close(run(x), model(x))
            assert 4096 <= sent(pool, "weights") - before < 2 * 4096

    def test_after_an_optimizers_step_and_a_loaded_state_the_answer_is_right(self) -> None:
        model, x = layers(), torch.ones(3, 32)
        run = compiled(model, pin=PINS)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            with torch.no_grad():
                torch.testing.assert_close(run(x), model(x))
            model(x).sum().backward()
            optimizer.step()
        model.load_state_dict(layers().state_dict())
        with torch.no_grad():
            torch.testing.assert_close(run(x), layers()(x))

    def test_what_no_graph_uses_any_more_is_let_go_of(self, pool: Pool) -> None:
        model, x = layers(), torch.ones(3, 32)
        run = compiled(model, pin=PINS)
        with torch.no_grad():
            run(x)
            before = sum(one.weight_bytes for one in pool.status().values())
            for _ in range(3):
                model[0][0].weight.mul_(1.5)
                run(x)
            assert sum(one.weight_bytes for one in pool.status().values()) <= before + 4096


class TestPlacing:
    def test_one_worker_is_the_answer_where_more_are_not_worth_it(self) -> None:
        model, x = layers(), torch.ones(3, 32)
        with torch.no_grad():
            torch.testing.assert_close(compiled(model)(x), model(x))
        assert set(devices()) == {"worker:0"}
        assert any("not worth it" in one for one in reasons(ReasonKind.PLACED))

    def test_sizes_that_differ_from_call_to_call(self) -> None:
        model = layers()
        run = torch.compile(model, backend="djinn", dynamic=True, options={**OPTIONS, "pin": PINS})
        with torch.no_grad():
            for rows in (3, 5, 9):
                x = torch.ones(rows, 32)
                torch.testing.assert_close(run(x), model(x))
        assert devices() == ["worker:0", "worker:1"]

    def test_what_draws_random_numbers_runs_here_and_says_so(self) -> None:
        with torch.no_grad():
            torch.manual_seed(1)
            got = compiled(lambda x: torch.rand_like(x) + x)(torch.ones(4))
            torch.manual_seed(1)
            torch.testing.assert_close(got, torch.rand_like(torch.ones(4)) + 1)
        assert reasons(ReasonKind.FALLBACK)

    def test_training_stays_here_and_says_so(self) -> None:
        model, x = layers(), torch.ones(3, 32)
        compiled(model)(x).sum().backward()
        assert any("training" in one for one in reasons(ReasonKind.PLACED))
        assert not {"worker:0", "worker:1"} & set(devices())

    def test_a_pin_to_no_worker_is_an_error(self) -> None:
        with pytest.raises(Exception, match="worker:7"), torch.no_grad():
            compiled(layers(), pin={"0": "worker:7x"})(torch.ones(3, 32))


class TestEngines:
    @pytest.mark.parametrize("engine", ["auto", "inductor"])
    def test_a_worker_compiles_with_the_engines_that_this_process_has(self, engine: str) -> None:
        model, x = layers(), torch.ones(3, 32)
        run = compiled(model, pin=PINS, engine=engine, worker_memory="1MB")
        with torch.no_grad():
            for _ in range(3):
                torch.testing.assert_close(run(x), model(x))
        assert devices() == ["worker:0", "worker:1"]
        assert not reasons(ReasonKind.FALLBACK)


class TestFaults:
    def test_a_worker_that_dies_is_planned_around(self, pool: Pool) -> None:
        model, x = layers(), torch.ones(3, 32)
        run = compiled(model, pin=PINS)
        with torch.no_grad():
            run(x)
            os.kill(pool.workers["worker:0"].health().pid, signal.SIGKILL)
            torch.testing.assert_close(run(x), model(x))
        assert set(devices()) == {"worker:1"}
        assert [one.kind for one in djinn_fx.status(run).lost] == [ReasonKind.DEVICE_LOST]

    def test_a_worker_that_stands_still_is_lost_and_its_process_ended(self, pool: Pool) -> None:
        model, x = layers(), torch.ones(3, 32)
        run = compiled(model, pin=PINS)
        with torch.no_grad():
            run(x)
            pid = pool.workers["worker:1"].health().pid
            os.kill(pid, signal.SIGSTOP)
            torch.testing.assert_close(run(x), model(x))
        assert pool.lost() == {"worker:1"}
        assert gone(pid)

    def test_state_that_a_lost_worker_kept_is_sent_anew(self, pool: Pool) -> None:
        class Counting(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("seen", torch.zeros(3, 32))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.seen += x
                return self.seen * 2

        model, x = Counting(), torch.ones(3, 32)
        run = compiled(model)
        with torch.no_grad():
            assert run(x).max() == 2
            os.kill(pool.workers["worker:0"].health().pid, signal.SIGKILL)
            assert run(x).max() == 4
        assert model.seen.max() == 2

    def test_an_error_of_a_worker_is_one_of_ours_and_it_lives_on(self, pool: Pool) -> None:
        worker = pool.workers["worker:0"]
        with pytest.raises(EngineError, match="worker:0"):
            worker.ask([("call", encode("call", {}))]).wait()
        assert worker.health().alive


class TestPacking:
    """Tensors travel packed where the link's law says that it pays; what it is, they were told or have measured."""

    @pytest.mark.skipif(not known(), reason="neither lz4 nor zstandard is installed: pip install 'djinn-fx[wire]'")
    def test_over_a_slow_link_and_not_over_a_fast_one(self, pool: Pool) -> None:
        worker, model, x = pool.workers["worker:0"], layers(), torch.zeros(20_000, 32)  # of which little is left
        run, size = compiled(model, pin={"0-3": "worker:0"}), x.nbytes

        def went(bandwidth: float) -> tuple[int, int, int, int]:
            """Of a call over such a link: bytes there, bytes back, of tensors that were packed before and after."""
            worker.packs(replace(measured, bandwidth_bytes_s=bandwidth))
            before = worker.sent[requests.CALL], worker.received[requests.RESULT], worker.status()
            with torch.no_grad():
                torch.testing.assert_close(run(x), model(x))
            (after,) = [one for one in djinn_fx.status(run).workers if one.name == "worker:0"]
            return (
                worker.sent[requests.CALL] - before[0],
                worker.received[requests.RESULT] - before[1],
                after.unpacked_bytes - before[2].unpacked_bytes,
                after.packed_bytes - before[2].packed_bytes,
            )

        assert worker.over is not None, "its link was measured"
        assert worker.over.codecs == known() == worker.codecs
        measured = worker.over
        try:
            with torch.no_grad():
                run(x)
            there, back, unpacked, packed = went(1e12)
            assert size < there < 1.01 * size
            assert size < back < 1.01 * size
            assert unpacked == packed == 0
            there, back, unpacked, packed = went(1e6)
            assert there < 0.1 * size  # zeros
            assert back < 0.5 * size  # rows that are alike
            assert 2 * size < unpacked < 2.01 * size
            assert 0 < packed < there + back
        finally:
            worker.packs(measured)


class TestAccounts:
    def test_a_models_status_has_its_workers_and_a_lost_one_refuses_at_once(self, pool: Pool) -> None:
        model, x = layers(), torch.ones(3, 32)
        run = compiled(model, pin=PINS)
        assert djinn_fx.status(run).workers == ()
        with torch.no_grad():
            run(x)
        told = {one.name: one for one in djinn_fx.status(run).workers}
        assert list(told) == ["worker:0", "worker:1"]
        for name, one in told.items():
            assert one.alive
            assert one.node
            assert one.threads == pool.threads
            assert one.weight_bytes >= 2 * 4 * (32 * 32 + 32)
            assert one.sent == pool.workers[name].sent
            assert f"{name} on {one.node}" in str(djinn_fx.status(run))
        pool.workers["worker:1"].lose("the test says so")
        lost = djinn_fx.status(run).workers[1]
        assert (lost.alive, lost.why) == (False, "the test says so")
        with pytest.raises(DeviceLostError, match="the test says so"):
            pool.workers["worker:1"].ask([("status", encode(requests.STATUS, {}))])
        assert not pool.workers["worker:1"].health().alive

    def test_another_process_sees_what_the_client_counts(self, pool: Pool) -> None:
        with torch.no_grad():
            compiled(layers(), pin=PINS)(torch.ones(3, 32))
        pool.restart("worker:0")  # nothing was sent there yet but what its link is like
        strangers = {one.name: one for one in workers_there(5.0)}
        assert {name: one.incarnation for name, one in strangers.items()} == {
            name: one.incarnation for name, one in pool.workers.items()
        }
        first, second = look(tuple(strangers.values()))[::-1]
        assert (first.name, set(first.sent) - {requests.LINK}) == ("worker:0", set())
        # To worker:1 went what worker:0 made, too, which the client did not send.
        ours = pool.workers["worker:1"]
        assert {**second.sent, "result": 0} == {**ours.sent, "result": 0}
        assert second.received["prepared"] == ours.received["prepared"] > 0

    def test_who_gives_no_sign_of_life_is_told_and_not_lost(self, pool: Pool) -> None:
        worker = pool.workers["worker:1"]
        pid = worker.health().pid
        os.kill(pid, signal.SIGSTOP)
        try:
            well, silent = look(tuple(pool.workers.values()), 0.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert well.alive
        assert not silent.alive
        assert "no sign of life" in silent.why
        assert look([worker])[0].alive

    def test_the_commands_show_them(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setattr("djinn_fx.cli.workers.close_all", lambda: None)  # these are the tests'
        with torch.no_grad():
            compiled(layers(), pin=PINS)(torch.ones(3, 32))
        assert main(["workers", "--workers", "local:2", "--json", "-"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert [one["name"] for one in told["workers"]] == ["worker:0", "worker:1"]
        assert all(one["sent"]["graph/full"] > 0 for one in told["workers"])
        assert main(["workers", "--workers", "auto"]) == 0  # joined by this process already
        printed = capsys.readouterr().out
        for word in ("worker:0", "worker:1", "alive", "incarnation", "graph/full", "prepared"):
            assert word in printed
        file = tmp_path / "links.yaml"
        assert main(["workers", "measure", "--workers", "local:2", "--topology", str(file)]) == 0
        assert list(read_topology(file).devices) == ["worker:0", "worker:1"]
        assert all(link.bandwidth_bytes_s > 0 for link in read_topology(file).links)
        assert main(["worker", "worker:1", "--workers", "local:2"]) == 0
        assert "weight_bytes" in capsys.readouterr().out
        assert main(["worker", "worker:9", "--workers", "local:2"]) == 2
        assert "worker:0, worker:1" in capsys.readouterr().err


class TestRay:
    def test_its_folder_is_the_users_alone(self, pool: Pool) -> None:
        folder = pool.cluster._folder
        assert folder is not None
        assert folder.stat().st_mode & 0o077 == 0

    def test_another_one_is_refused_while_this_process_is_connected(self) -> None:
        with pytest.raises(SettingsError, match="connected"):
            Pool("local:1", Wanted(build="json:loads"))

    def test_who_has_no_token_is_not_let_in(self, pool: Pool, tmp_path: Path) -> None:
        address = ray.get_runtime_context().gcs_address
        code = f"from djinn_fx.remote.workers.pool import Pool, Wanted; Pool({address!r}, Wanted(build='json:loads'))"
        done = other_process(code, tmp_path)
        assert "SettingsError" in done.stderr
        assert "RAY_AUTH_TOKEN" in done.stderr

    def test_with_the_process_everything_ends(self, tmp_path: Path) -> None:
        """Killed, or at its own end; both at once, as a Ray takes seconds to start."""
        code = """
            import os, signal, sys
            from djinn_fx.remote.workers.pool import Pool, Wanted
            pool = Pool("local:1", Wanted(build="djinn_fx.compiling.workers.running:build", threads=1))
            print(pool.cluster._mark, pool.cluster._folder, flush=True)
        """
        ends = ("os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)")
        with ThreadPoolExecutor(len(ends)) as threads:
            done = list(threads.map(lambda end: other_process(textwrap.dedent(code) + end, tmp_path), ends))
        assert [one.returncode for one in done] == [-signal.SIGKILL, 0]
        for one in done:
            mark, folder = one.stdout.split()
            until = time.monotonic() + 30
            while (marked(mark) or Path(folder).exists()) and time.monotonic() < until:
                time.sleep(0.1)
            assert not marked(mark)
            assert not Path(folder).exists()


class TestRoom:
    def test_what_workers_cannot_hold_is_one_error_with_the_least_that_would_do(self) -> None:
        with pytest.raises(Exception, match="the least that would do"), torch.no_grad():
            compiled(layers(), worker_memory="5kB")(torch.ones(3, 32))

    def test_what_one_cannot_hold_is_on_two(self) -> None:
        model, x = layers(), torch.ones(3, 32)
        with torch.no_grad():
            torch.testing.assert_close(compiled(model, worker_memory="12kB")(x), model(x))
        assert set(devices()) == {"worker:0", "worker:1"}

    @pytest.mark.usefixtures("own_workers")
    def test_a_llama_that_one_cannot_hold_decodes_on_two_within_their_memory(self, pool: Pool) -> None:
        model, ids = llama(), torch.arange(9).view(1, -1)
        size = sum(one.nbytes for one in model.parameters())
        bound = int(0.8 * size)
        how = {"max_new_tokens": 3, "do_sample": False, "cache_implementation": "static", "disable_compile": True}
        with torch.no_grad(), restarted(pool, bound):
            want = model.generate(ids, **how)
            model.forward = compiled(model.forward, worker_memory=f"{bound}B")
            assert torch.equal(model.generate(ids, **how), want)
            held = pool.status().values()
        assert all(one.weight_bytes > 0 and one.weight_bytes + one.state_bytes <= bound for one in held)
        assert sum(one.weight_bytes for one in held) < size * 1.01  # no layer is on both

    @pytest.mark.usefixtures("own_workers")
    def test_models_and_threads_share_workers_that_cannot_hold_all_of_them(self, pool: Pool) -> None:
        models, x = [layers(seed=seed) for seed in range(3)], torch.ones(3, 32)
        part = sum(one.nbytes for one in models[0].parameters()) // 2
        bound = part * 5 // 2  # two of three

        def ask(order: Sequence[int]) -> list[tuple[int, torch.Tensor]]:
            with torch.no_grad():
                return [(place, runs[place](x)) for _ in range(5) for place in order]

        with restarted(pool, bound), torch.no_grad():
            runs = [compiled(one, pin=PINS, worker_memory=f"{bound}B") for one in models]
            want = [one(x) for one in models]
            for run in runs:
                run(x)
            before = sent(pool, "weights")
            with ThreadPoolExecutor(2) as threads:
                answers = [*threads.map(ask, [(0, 1, 2), (2, 1, 0)])]
            held, lost = [one.weight_bytes for one in pool.status().values()], pool.lost()
        for place, got in answers[0] + answers[1]:
            torch.testing.assert_close(got, want[place])
        assert len(answers[0] + answers[1]) == 30
        assert sent(pool, "weights") - before > 2 * part  # some went, and came again
        # Each weight that comes sends away the one used least recently, and no more than there must be room for.
        largest = max(one.nbytes for one in models[0].parameters())
        assert all(bound - largest < nbytes <= bound for nbytes in held), (held, lost)

    def test_workers_elsewhere_are_refused_while_there_are_some(self) -> None:
        with pytest.raises(Exception, match="close_all"), torch.no_grad():
            compiled(layers(), workers="local:1")(torch.ones(3, 32))

    def test_workers_that_are_not_as_wanted_are_no_answer(self, pool: Pool) -> None:
        there = pool.wanted
        assert pool_of(pool.at, Wanted(build=there.build), timeout_s=5.0) is pool
        link = DeclaredLink(ends=("", ""), bandwidth_bytes_s=1e6, latency_s=0.0)
        for other in ({"memory_bytes": 2**20}, {"threads": 7}, {"link": link}, {"build": "json:loads"}):
            with pytest.raises(SettingsError, match=rf"{next(iter(other))}=.*close_all"):
                pool_of(pool.at, replace(there, **other))
            assert not pool.lost()


@pytest.fixture(scope="module")
def session(pool: Pool) -> Session:
    """A model over both workers."""
    return Session(0)


class TestWorse:
    """The quickest faults of ``tests.exam.worker_faults``: one call is lost to each at most, and never wrong.

    The last tests of this file: at the end of them there is no Ray.
    """

    @pytest.fixture(autouse=True)
    def _compiled(self, session: Session, _whole: None) -> None:
        """Each fault meets calls, not the compilation that the last test left to be made again."""
        session.whole()

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("name", ["half a message", "flipped", "another version"])
    def test_what_is_no_frame_is_one_error_and_the_next_call_is_right(
        self, session: Session, name: str, seed: int
    ) -> None:
        found = FAULTS[name][0](session, random.Random(seed))
        wrong = [one for one in found if one != "right"]
        assert len(wrong) == 1
        assert wrong[0].startswith("EngineError: worker:")
        assert found[-1] == "right"
        assert not session.pool.lost()

    def test_a_worker_that_has_no_memory_left_says_so_and_goes_on(self, session: Session) -> None:
        found = FAULTS["memory full"][0](session, random.Random(0))
        assert "memory" in found[0]
        assert found[1:] == ["right", "right"]
        assert not session.pool.lost()

    def test_a_worker_that_stops_for_a_while_is_waited_for(self, session: Session) -> None:
        assert FAULTS["frozen a while"][0](session, random.Random(0)) == ["right", "right"]

    def test_where_ray_itself_ends_what_is_left_is_this_process(self, session: Session) -> None:
        pool = session.pool
        assert FAULTS["raylet killed"][0](session, random.Random(0)) == ["right"] * 4
        assert pool.lost() == set(pool.workers)


@contextlib.contextmanager
def restarted(pool: Pool, memory_bytes: int) -> Iterator[None]:
    """With workers that hold no more than so much, of all models together."""
    try:
        pool.wanted = replace(pool.wanted, memory_bytes=memory_bytes)
        begun_again(pool, sorted(pool.workers))
        yield
    finally:
        pool.wanted = replace(pool.wanted, memory_bytes=None)
        for one in pool.workers.values():
            one.lose("the next test has others")


def gone(pid: int) -> bool:
    """Whether a process ends soon."""
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def other_process(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(cwd), "TMPDIR": tempfile.gettempdir()}
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
