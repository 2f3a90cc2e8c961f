"""Inductor in a child process: what is built there and loaded here computes what it should, or is refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.engines.base import Artefact, BuildRequest, RegionGraph
from djinn_fx.engines.inductor import flags as inductor_flags
from djinn_fx.engines.inductor import kernels as inductor_kernels
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.engines.inductor.worker import build
from djinn_fx.engines.keys import Guards, symbolic_inputs
from djinn_fx.errors import EngineError
from djinn_fx.pool.jobs import BuildDone, BuildError, BuildFailed, BuildJob, BuildOutcome, FailureKind
from djinn_fx.pool.limits import PoolLimits
from djinn_fx.pool.supervisor import BuildPool
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg import GraphKind
from tests import capture, graphs
from tests.concrete import concrete, copied, whole

TIMEOUT_S = 300.0


class Children:
    """A pool with one child, asked one thing at a time."""

    def __init__(self) -> None:
        self.pool = BuildPool(PoolLimits(children=1, memory_bytes=8 * 2**30, nice=0, check_available=False))
        self._count = 0

    def build(self, request: BuildRequest, **changes: Any) -> BuildOutcome:
        """The outcome of a request, with other values for some of its fields."""
        self._count += 1
        done = threading.Event()
        outcomes: list[BuildOutcome] = []
        job = BuildJob(
            key=str(self._count),
            worker=request.worker,
            request={**copy.deepcopy(dict(request.request)), **changes},
            blobs=request.blobs,
            memory_bytes=request.memory_bytes,
            timeout_s=TIMEOUT_S,
        )
        ticket = self.pool.submit(job, on_done=lambda outcome: (outcomes.append(outcome), done.set()))
        assert done.wait(TIMEOUT_S), ticket
        return outcomes[0]


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.pool.close()


def requested(region: RegionGraph, **options: Any) -> BuildRequest:
    request = InductorEngine(**options).request(region)
    assert isinstance(request, BuildRequest)
    return request


def built(children: Children, region: RegionGraph, **options: Any) -> BuildDone:
    outcome = children.build(requested(region, **options))
    assert isinstance(outcome, BuildDone), outcome
    return outcome


def loaded(done: BuildDone) -> Callable[[list[Any]], Sequence[Any]]:
    return InductorEngine().load(Artefact(header=done.header, payload=done.payload))


def same_as_here(done: BuildDone, region: RegionGraph) -> None:
    """The child's artefact gives what one compiled here gives, to the bit, and is close to the graph run as it is."""
    here = InductorEngine().compile(region)
    assert here.ready is not None
    assert done.header["outputs"] == here.header["outputs"]
    values = concrete(region.example_inputs)
    ours, theirs, eager = copied(values), copied(values), copied(values)
    torch.manual_seed(5)
    found = loaded(done)(list(ours))
    torch.manual_seed(5)
    expected = here.ready(list(theirs))
    torch.manual_seed(5)
    plain = region.gm(*eager)
    torch.testing.assert_close(list(found), list(expected), rtol=0, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(list(found), list(plain))
    torch.testing.assert_close(ours, eager)


def layer(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.softmax(F.gelu(x @ w + b), -1)
    return y, y.sum(-1)


def layer_arguments(**options: Any) -> list[Tensor]:
    return [torch.randn(6, 5), torch.randn(5, 7, **options), torch.randn(7, **options)]


def step(x: Tensor, cache: Tensor, at: Tensor) -> Tensor:
    cache.index_copy_(0, at, F.dropout(x, 0.3))
    return torch.relu(cache).sum(0)


def test_static_sizes(children: Children) -> None:
    (srg,) = capture.capture(layer, layer_arguments())
    region = whole(srg)
    done = built(children, region)
    assert done.header["engine"] == "inductor"
    assert done.header["guards"] is None
    same_as_here(done, region)


def test_a_region_that_writes_into_an_input_and_draws_random_numbers(children: Children) -> None:
    (srg,) = capture.capture(step, (torch.randn(1, 6), torch.zeros(4, 6), torch.tensor([2])))
    region = whole(srg)
    same_as_here(built(children, region), region)


def test_forward_and_backward(children: Children) -> None:
    srgs = capture.capture(layer, layer_arguments(requires_grad=True), training=True)
    assert [srg.kind for srg in srgs] == [GraphKind.FORWARD, GraphKind.BACKWARD]
    for srg in srgs:
        region = whole(srg, srg.kind.value)
        same_as_here(built(children, region), region)


def test_symbolic_sizes(children: Children) -> None:
    (srg,) = capture.capture(layer, layer_arguments(), dynamic=True)
    region = whole(srg)
    symints = symbolic_inputs(region.example_inputs)
    done = built(children, region)
    assert Guards(expression=done.header["guards"]).hold(symints)
    run = loaded(done)
    names = [str(symint) for symint in symints]
    for sizes in ((6, 5, 7), (9, 4, 33), (2, 130, 3)):
        values = concrete(region.example_inputs, sizes=dict(zip(names, sizes, strict=True)))
        torch.testing.assert_close(list(run(copied(values))), list(region.gm(*copied(values))))


def test_a_size_the_child_relies_on_is_a_guard(children: Children) -> None:
    """The child compiles for the size 8 only; an artefact for another size must not be taken for it."""

    def function(x: Tensor) -> Tensor:
        return x.view(-1, 8).sum(0) if x.shape[0] % 8 == 0 else x

    (srg,) = capture.capture(function, (torch.randn(16, 3),), dynamic=True)
    region = whole(srg)
    done = built(children, region)
    guards = Guards(expression=done.header["guards"])
    assert guards.hold(symbolic_inputs(region.example_inputs))
    shape_env = symbolic_inputs(region.example_inputs)[0].node.shape_env
    assert not shape_env.evaluate_guards_expression(guards.expression, [9, 3])


def test_switches_of_this_process_hold_in_the_child_too(children: Children) -> None:
    (srg,) = capture.capture(torch.tanh, (torch.randn(3, 4),))
    region = whole(srg)
    usual = InductorEngine().fingerprint()["flags"]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        torch.set_float32_matmul_precision("high")
        with torch._inductor.config.patch({"max_fusion_size": 7, "cpp.simdlen": 0}):
            assert InductorEngine().fingerprint()["flags"] != usual
            assert isinstance(children.build(requested(region, fallback_random=False)), BuildDone)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
    assert InductorEngine().fingerprint()["flags"] == usual
    assert isinstance(children.build(requested(region)), BuildDone), "the same child, switched back"


def test_a_child_that_would_generate_other_code_refuses(children: Children) -> None:
    (srg,) = capture.capture(torch.tanh, (torch.randn(3, 4),))
    request = requested(whole(srg))
    fingerprint = {**request.request["fingerprint"], "compiler": "1.0", "cpu": "another"}
    outcome = children.build(request, fingerprint=fingerprint)
    assert isinstance(outcome, BuildFailed)
    assert (outcome.kind, outcome.stage) == (FailureKind.REFUSED, "support")
    switches = {**request.request["switches"], "threads": torch.get_num_threads() + 3}
    outcome = children.build(request, switches=switches)
    assert isinstance(outcome, BuildFailed)
    assert (outcome.kind, outcome.stage) == (FailureKind.REFUSED, "support")


def test_hostile_requests_are_refused_and_the_child_lives_on(children: Children, tmp_path: Any) -> None:
    (srg,) = capture.capture(torch.tanh, (torch.randn(3, 4),))
    request = requested(whole(srg))
    form = json.loads(json.dumps(request.request["form"]))
    touch = f"__import__('pathlib').Path({str(tmp_path / 'was-here')!r}).touch()"
    hostile = {
        "target": {**form, "ops": [["os.system", ["list", f"touch {tmp_path}/was-here"], ["dict"], ["int", "0"]]]},
        "size": {**form, "inputs": [[["float32", [touch], [1], [0], "cpu"], [0]]]},
        "nonsense": {"ops": None},
    }
    for name, bad in hostile.items():
        outcome = children.build(request, form=bad)
        assert isinstance(outcome, BuildFailed), name
        assert (outcome.kind, outcome.stage) == (FailureKind.REFUSED, "support"), outcome
    assert not list(tmp_path.iterdir())
    assert isinstance(children.build(request), BuildDone)


def test_what_only_this_process_knows_is_not_asked_of_a_child() -> None:
    region = whole(graphs.lowered(graphs.two_layer_mlp()))
    assert isinstance(InductorEngine().request(region), BuildRequest)
    formless = RegionGraph(
        gm=region.gm, structural_hash="", canonical=None, example_inputs=(), label="part", kind="inference"
    )
    with torch._inductor.config.patch(post_grad_custom_post_pass=lambda graph: None):
        answers = [InductorEngine().request(formless), InductorEngine().request(region)]
    for answer in answers:
        assert isinstance(answer, Reason)
        assert answer.kind is ReasonKind.ENGINE_REFUSED


def test_a_request_is_plain_data() -> None:
    request = requested(whole(graphs.lowered(graphs.attention_block())))
    assert json.loads(json.dumps(request.request)) == request.request
    assert request.memory_bytes > 2**29
    assert request.blobs == ()


def test_switches_survive_the_way_through_json() -> None:
    before = inductor_flags.flags()
    inductor_flags.apply(json.loads(json.dumps(inductor_flags.as_data())))
    assert inductor_flags.flags() == before


def test_loading_while_another_thread_traces_and_compiles() -> None:
    """Contexts of tracing and settings belong to threads; results of both sides stay right."""
    (srg,) = capture.capture(layer, layer_arguments())
    region = whole(srg)
    values = concrete(region.example_inputs)
    expected = list(region.gm(*copied(values)))
    engine = InductorEngine()
    artefact = engine.compile(region)
    stop = threading.Event()
    wrong: list[BaseException] = []
    rounds = 0

    def load_and_run() -> None:
        nonlocal rounds
        try:
            while not stop.is_set():
                found = engine.load(Artefact(header=artefact.header, payload=artefact.payload))(copied(values))
                torch.testing.assert_close(list(found), expected)
                assert torch.is_grad_enabled()
                rounds += 1
        except BaseException as error:  # noqa: BLE001  (told in the test's own thread)
            wrong.append(error)

    thread = threading.Thread(target=load_and_run)
    thread.start()
    try:
        for size in range(3, 9):
            w = torch.randn(size, size, requires_grad=True)
            x = torch.randn(4, size)
            torch._dynamo.reset()
            y = torch.compile(lambda x, w: torch.tanh(x @ w).sum(), backend="aot_eager", dynamic=size % 2 == 0)(x, w)
            y.backward()
            torch.testing.assert_close(y, torch.tanh(x @ w).sum())
            assert w.grad is not None
    finally:
        stop.set()
        thread.join(TIMEOUT_S)
    assert not wrong, wrong
    assert rounds > 0


def test_kernels_travel_with_the_artefact(
    children: Children, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, repo: Any
) -> None:
    """A process with an empty folder of Inductor's, where no kernel can be compiled, loads and runs it."""
    (srg,) = capture.capture(layer, layer_arguments())
    region = whole(srg)
    done = built(children, region)
    files = done.header["kernels"]["files"]
    assert files
    values = concrete(region.example_inputs)
    torch.save([values, list(region.gm(*copied(values)))], tmp_path / "values.pt")
    (tmp_path / "payload").write_bytes(done.payload)
    (tmp_path / "header").write_text(json.dumps(done.header))
    script = f"""
import json, pathlib, torch
from torch._inductor.cpp_builder import CppBuilder
from djinn_fx.engines.base import Artefact
from djinn_fx.engines.inductor.engine import InductorEngine

build = CppBuilder.build

def watched(self):
    target = self.get_target_file_path()
    assert not target.endswith(".main.so"), target  # a kernel
    return build(self)

CppBuilder.build = watched
here = pathlib.Path({str(tmp_path)!r})
values, expected = torch.load(here / "values.pt")
header = json.loads((here / "header").read_text())
run = InductorEngine().load(Artefact(header=header, payload=(here / "payload").read_bytes()))
torch.testing.assert_close(list(run(values)), expected)
print("same")
"""
    environment = {**os.environ, "PYTHONPATH": str(repo), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "empty")}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "same", ran.stderr
    put = [str(path.relative_to(tmp_path / "empty")) for path in (tmp_path / "empty").glob("*/*.so")]
    assert {name for name, _ in files} <= set(put)


def test_kernels_go_nowhere_but_into_inductors_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    name = f"ab/{'a' * 30}.main.so"

    def header(*files: list[Any], toolchain: str | None = None) -> dict[str, Any]:
        return {"kernels": {"toolchain": toolchain or inductor_kernels.toolchain(), "files": list(files)}}

    assert inductor_kernels.restored({}, b"payload") == b"payload"
    assert inductor_kernels.restored(header([name, 3], toolchain="another"), b"payloadabc") == b"payload"
    assert not (tmp_path / "inductor").exists(), "made for other paths: of no use here"
    assert inductor_kernels.restored(header([name, 3]), b"payloadabc") == b"payload"
    assert (tmp_path / "inductor" / name).read_bytes() == b"abc"
    bad = ["../x.so", f"ab/../../{'a' * 30}.so", f"/ab/{'a' * 30}.so", f"ab/{'a' * 30}.py", f"ab/{'a' * 30}.so\n"]
    for wrong in (*([name, 3] for name in bad), [name, 99], [name, 0], [name, -2]):
        with pytest.raises(ValueError, match="does not fit"):
            inductor_kernels.restored(header(wrong), b"payloadabc")
    with pytest.raises(EngineError, match="could not load"):
        InductorEngine().load(Artefact(header=header(["../x.so", 3]), payload=b"payloadabc"))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [f"{'a' * 30}.main.so"]


def test_a_thread_that_loads_has_the_settings_of_the_one_that_made_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.standalone_compile import AOTCompiledArtifact

    seen = []

    def deserialize(payload: bytes) -> Any:
        seen.append(torch._inductor.config.cpp.simdlen)
        raise RuntimeError("enough")

    monkeypatch.setattr(AOTCompiledArtifact, "deserialize", staticmethod(deserialize))
    with torch._inductor.config.patch({"cpp.simdlen": 128}), ThreadPoolExecutor(1) as other:
        engine = InductorEngine()
        if other.submit(lambda: torch._inductor.config.cpp.simdlen).result() == 128:
            pytest.skip("this torch's settings are the process's")

    def load() -> None:
        with pytest.raises(Exception, match="could not load"):
            engine.load(Artefact(header={}, payload=b""))

    thread = threading.Thread(target=load)
    thread.start()
    thread.join(TIMEOUT_S)
    assert seen == [128]


def test_the_worker_can_be_called_without_a_pool() -> None:
    """And says so when it is asked for what it cannot do."""
    (srg,) = capture.capture(torch.tanh, (torch.randn(3, 4),))
    request = requested(whole(srg))
    with pytest.raises(BuildError) as caught:
        build({**request.request, "form": {**request.request["form"], "outputs": [7]}}, [])
    assert caught.value.stage == "support"
