"""What a worker answers, without Ray: frames in, frames out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm, graph_form
from djinn_fx.remote.delta.messages import Ready, from_frame, to_frame
from djinn_fx.remote.delta.sender import Sender
from djinn_fx.remote.wire.codecs import known
from djinn_fx.remote.wire.frame import Frame, decode, encode, joined
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.requests import Call, Written, call_of
from djinn_fx.remote.workers.serving import Serving

VALUE = ["float32", [2], [1], [0], "cpu"]


class Running:
    """Adds its inputs up; writes the sum into the inputs that it is told."""

    told: Mapping[str, Any] = {"builds": []}

    def __init__(self, writes: Sequence[int] = ()) -> None:
        self.writes = tuple(writes)
        self.calls = self.copied_bytes = 0

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        self.calls += 1
        total = sum(args[1:], args[0] + 0)
        for number in self.writes:
            args[number].copy_(total)
        args.clear()
        return [total]


def form(inputs: int, weights: Mapping[int, torch.Tensor] | None = None) -> tuple[GraphForm, dict[str, Any]]:
    content = {"inputs": [[VALUE, [n]] for n in range(inputs)], "ops": [], "outputs": [0], "symbols": []}
    payloads = {number: payload_of(tensor) for number, tensor in (weights or {}).items()}
    return graph_form(content, payloads), {one.digest: one for one in payloads.values()}


class Worker:
    """A worker with the client's half of its stream."""

    def __init__(self, running: Running, **options: Any) -> None:
        self.running = running
        self.built: list[Any] = []
        self.serving = Serving(self._build, 7, **options)
        self.sender = Sender(1)

    def _build(self, graph: GraphForm, about: Mapping[str, Any]) -> Running:
        self.built.append((graph.digest, about))
        return self.running

    def ask(self, *frames: Any) -> list[Frame]:
        return [decode(one) for one in self.serving.take([readonly(joined(list(one))) for one in frames])]

    def have(self, graph: GraphForm, payloads: Mapping[str, Any]) -> str:
        """Send a graph and have it prepared; what that is called."""
        messages = self.sender.update(graph, payloads)
        while messages:
            answers = self.ask(*map(to_frame, messages))
            messages = [one for answer in answers for one in self.sender.receive(from_frame(answer))]  # type: ignore[arg-type]
        assert self.sender.ready
        (told,) = self.ask(encode(requests.PREPARE, {"graph": graph.digest, "about": {}}))
        assert told.kind == requests.PREPARED
        return str(told.fields["prepared"])

    def call(self, call: Call, tensors: Mapping[str, torch.Tensor]) -> Frame:
        payloads = {name: payload_of(one) for name, one in tensors.items()}
        return self.ask(encode(requests.CALL, call.to_fields(), payloads, digests=False))[0]

    def keep(self, name: str, tensor: torch.Tensor, version: int) -> Frame:
        return self.ask(encode(requests.STATE, {"versions": {name: version}}, {name: payload_of(tensor)}))[0]


def readonly(array: Any) -> Any:
    """As arrays of an object store are."""
    array.flags.writeable = False
    return array


class TestCalls:
    def test_weights_are_sent_once_and_inputs_with_each_call(self) -> None:
        worker = Worker(Running())
        graph, payloads = form(2, {1: torch.tensor([10.0, 20.0])})
        name = worker.have(graph, payloads)
        for one in (1.0, 2.0):
            call = Call(graph=graph.digest, prepared=name, gives=(0,))
            answer = worker.call(call, {"i0": torch.full((2,), one)})
            assert answer.tensors["o0"].tolist() == [10 + one, 20 + one]

    def test_the_same_form_with_other_weights_is_compiled_once(self) -> None:
        worker = Worker(Running())
        names = set()
        for value in (1.0, 2.0):
            graph, payloads = form(1, {0: torch.full((2,), value)})
            names.add(worker.have(graph, payloads))
            answer = worker.call(Call(graph=graph.digest, prepared=names.copy().pop(), gives=(0,)), {})
            assert answer.tensors["o0"].tolist() == [value, value]
        assert len(names) == 1
        assert len(worker.built) == 1

    def test_numbers_are_inputs_too(self) -> None:
        worker = Worker(Running())
        graph, payloads = form(2)
        call = Call(graph=graph.digest, prepared=worker.have(graph, payloads), numbers={1: 3}, gives=(0,))
        assert worker.call(call, {"i0": torch.zeros(2)}).tensors["o0"].tolist() == [3, 3]

    def test_an_input_that_is_written_is_copied_first_and_its_new_value_told(self) -> None:
        worker = Worker(Running(writes=[0]))
        graph, payloads = form(1)
        call = Call(graph=graph.digest, prepared=worker.have(graph, payloads), gives=(0,), written={0: Written()})
        frame = readonly(joined(encode(requests.CALL, call.to_fields(), {"i0": payload_of(torch.ones(2))})))
        before = frame.copy()
        answer = decode(worker.serving.take([frame])[0])
        assert answer.tensors["w0"].tolist() == [1, 1]
        assert (frame == before).all()

    @pytest.mark.skipif(not known(), reason="neither lz4 nor zstandard is installed: pip install 'djinn-fx[wire]'")
    @pytest.mark.parametrize(("bandwidth", "pays"), [(1e6, True), (1e12, False)])
    def test_an_answer_is_packed_where_the_link_says_that_it_pays(self, bandwidth: float, pays: bool) -> None:
        worker, x = Worker(Running()), torch.ones(200_000)
        graph, payloads = form(1)
        call = Call(graph=graph.digest, prepared=worker.have(graph, payloads), gives=(0,))
        told = {"latency_s": 1e-3, "bandwidth_bytes_s": bandwidth, "codecs": list(known())}
        assert [one.kind for one in worker.ask(encode(requests.LINK, told))] == [requests.LINKED]
        answer = worker.call(call, {"i0": x})
        assert torch.equal(answer.tensors["o0"], x)
        unpacked, packed = answer.packed
        assert (unpacked > x.nbytes > 2 * packed > 0) if pays else (unpacked, packed) == (0, 0)

    @pytest.mark.parametrize(
        "told",
        [
            {},
            {"latency_s": -1, "bandwidth_bytes_s": 1e6, "codecs": []},
            {"latency_s": 0, "bandwidth_bytes_s": 0, "codecs": []},
            {"latency_s": 0, "bandwidth_bytes_s": True, "codecs": []},
            {"latency_s": 0, "bandwidth_bytes_s": 1e6, "codecs": [1]},
        ],
    )
    def test_a_link_that_is_none_is_an_error(self, told: Any) -> None:
        (answer,) = Worker(Running()).ask(encode(requests.LINK, told))
        assert answer.kind == requests.FAILED

    def test_a_missing_input_is_an_error_and_nothing_runs(self) -> None:
        worker = Worker(Running())
        graph, payloads = form(2)
        answer = worker.call(Call(graph=graph.digest, prepared=worker.have(graph, payloads)), {"i0": torch.ones(2)})
        assert answer.kind == requests.FAILED
        assert worker.running.calls == 0

    def test_what_was_passed_on_by_another_worker_is_an_input(self) -> None:
        first, second = Worker(Running()), Worker(Running())
        graph, payloads = form(1)
        call = Call(graph=graph.digest, prepared=first.have(graph, payloads), passes=(0,))
        request = joined(encode(requests.CALL, call.to_fields(), {"i0": payload_of(torch.ones(2))}))
        answer, passed = first.serving.relay(request, [])
        assert decode(answer).tensors == {}
        after = Call(graph=graph.digest, prepared=second.have(graph, payloads), from_others={0: (0, 0)}, gives=(0,))
        answer, _ = second.serving.relay(joined(encode(requests.CALL, after.to_fields())), [passed])
        assert decode(answer).tensors["o0"].tolist() == [1, 1]

    def test_where_the_one_before_lacked_something_nothing_runs(self) -> None:
        first, second = Worker(Running()), Worker(Running())
        graph, payloads = form(1)
        name = second.have(graph, payloads)
        call = Call(graph=graph.digest, prepared=name, passes=(0,))
        answer, passed = first.serving.relay(joined(encode(requests.CALL, call.to_fields())), [])
        assert decode(answer).kind == requests.LACKS
        after = Call(graph=graph.digest, prepared=name, from_others={0: (0, 0)}, gives=(0,))
        answer, _ = second.serving.relay(joined(encode(requests.CALL, after.to_fields())), [passed])
        assert decode(answer).kind == requests.LACKS
        assert second.running.calls == 0


class TestState:
    def worker(self) -> tuple[Worker, Call]:
        worker = Worker(Running(writes=[0]))
        graph, payloads = form(2)
        name = worker.have(graph, payloads)
        return worker, Call(
            graph=graph.digest, prepared=name, state={0: ("s", 1)}, becomes={0: 2}, written={0: Written()}
        )

    def test_it_stays_at_the_worker_from_call_to_call(self) -> None:
        worker, call = self.worker()
        worker.keep("s", torch.zeros(2), 1)
        assert worker.call(call, {"i1": torch.ones(2)}).tensors["w0"].tolist() == [1, 1]
        again = Call(**{**vars(call), "state": {0: ("s", 2)}, "becomes": {0: 3}})
        assert worker.call(again, {"i1": torch.ones(2)}).tensors["w0"].tolist() == [2, 2]

    def test_another_version_than_the_client_thinks_is_lacking(self) -> None:
        worker, call = self.worker()
        worker.keep("s", torch.zeros(2), 5)
        answer = worker.call(call, {"i1": torch.ones(2)})
        assert answer.kind == requests.LACKS
        assert answer.fields["states"] == ["s"]
        assert worker.running.calls == 0

    def test_a_call_that_fails_leaves_it_unknown(self) -> None:
        worker, call = self.worker()
        worker.keep("s", torch.zeros(2), 1)
        assert worker.call(call, {"i1": torch.ones(3)}).kind == requests.FAILED
        assert worker.call(call, {"i1": torch.ones(2)}).kind == requests.LACKS

    def test_of_rows_that_are_known_to_be_written_only_these_come_back(self) -> None:
        worker, call = self.worker()
        worker.keep("s", torch.zeros(2), 1)
        rows = Call(**{**vars(call), "written": {0: Written(dim=0, index=("i", 1))}})
        answer = worker.call(rows, {"i1": torch.tensor([1, 1])})
        assert answer.tensors["x1" if "x1" in answer.tensors else "x0"].tolist() == [1, 1]
        assert answer.tensors["w0"].tolist() == [1, 1]

    def test_it_counts_and_is_refused_where_there_is_no_room_at_all(self) -> None:
        worker = Worker(Running(), memory_bytes=12)
        assert worker.keep("s", torch.zeros(2), 1).kind == requests.KEPT
        assert worker.serving.status()["state_bytes"] == 8
        assert worker.keep("t", torch.zeros(4), 1).kind == requests.FAILED
        assert worker.serving.status()["state_bytes"] == 8

    def test_what_was_used_least_recently_goes_for_what_comes(self) -> None:
        worker = Worker(Running(writes=[0]), memory_bytes=16)
        graph, payloads = form(2)
        name = worker.have(graph, payloads)
        worker.keep("s", torch.zeros(2), 1)
        worker.keep("t", torch.zeros(2), 1)
        call = Call(graph=graph.digest, prepared=name, state={0: ("s", 1)}, becomes={0: 2}, written={0: Written()})
        assert worker.call(call, {"i1": torch.ones(2)}).kind == requests.RESULT
        assert worker.keep("u", torch.zeros(2), 1).kind == requests.KEPT
        assert worker.serving.status()["state_bytes"] == 16
        again = Call(**{**vars(call), "state": {0: ("t", 1)}})
        assert worker.call(again, {"i1": torch.ones(2)}).fields["states"] == ["t"]
        again = Call(**{**vars(call), "state": {0: ("s", 2)}, "becomes": {0: 3}})
        assert worker.call(again, {"i1": torch.ones(2)}).kind == requests.RESULT

    def test_weights_and_state_never_take_more_together_than_they_may(self) -> None:
        worker = Worker(Running(), memory_bytes=2400)
        first, its = form(1, {0: torch.ones(400)})
        name = worker.have(first, its)
        assert worker.keep("s", torch.zeros(400), 1).kind == requests.KEPT  # the weights of the first went
        held = worker.serving.status()
        assert (held["weight_bytes"], held["state_bytes"]) == (0, 1600)
        lacking = worker.call(Call(graph=first.digest, prepared=name, gives=(0,)), {})
        assert lacking.kind == requests.LACKS
        second, its = form(1, {0: torch.full((500,), 2.0)})
        name = worker.have(second, its)  # there is no room beside the state
        held = worker.serving.status()
        assert (held["weight_bytes"], held["state_bytes"]) == (2000, 0)
        answer = worker.call(Call(graph=second.digest, prepared=name, gives=(0,)), {})
        assert answer.tensors["o0"].tolist() == [2.0] * 500

    def test_copies_that_engines_keep_count_and_go_where_weights_have_no_room(self) -> None:
        worker = Worker(Running(), memory_bytes=2400)
        first, its = form(1, {0: torch.ones(200)})
        name = worker.have(first, its)
        worker.running.copied_bytes = 800
        assert worker.serving.status()["copied_bytes"] == 800
        assert worker.keep("s", torch.zeros(100), 1).kind == requests.KEPT  # all three fit
        assert worker.call(Call(graph=first.digest, prepared=name, gives=(0,)), {}).kind == requests.RESULT
        assert worker.keep("t", torch.zeros(200), 1).kind == requests.KEPT  # beside the copies the weights do not
        assert worker.call(Call(graph=first.digest, prepared=name, gives=(0,)), {}).fields["graph"]
        worker.have(*form(2, {0: torch.ones(550)}))  # room for it alone: state goes, and what was compiled
        assert worker.serving.status()["weight_bytes"] == 2200
        assert worker.call(Call(graph=first.digest, prepared=name, gives=(0,)), {}).kind == requests.LACKS


class TestWhatIsWrong:
    def test_a_graph_that_is_not_there_is_lacking(self) -> None:
        worker = Worker(Running())
        answer = worker.call(Call(graph="0" * 64, prepared="0" * 64), {})
        assert answer.kind == requests.LACKS
        (told,) = worker.ask(encode(requests.PREPARE, {"graph": "0" * 64, "about": {}}))
        assert told.kind == requests.LACKS

    def test_weights_that_were_let_go_of_are_lacking(self) -> None:
        worker = Worker(Running())
        graph, payloads = form(1, {0: torch.ones(2)})
        name = worker.have(graph, payloads)
        worker.ask(encode(requests.RELEASE, {"weights": list(graph.weights), "states": []}))
        assert worker.serving.status()["weight_bytes"] == 0
        assert worker.call(Call(graph=graph.digest, prepared=name), {}).kind == requests.LACKS

    @given(st.binary(max_size=300))
    def test_bytes_that_are_no_frame_are_an_answer(self, raw: bytes) -> None:
        assert decode(Serving(Worker(Running())._build, 1).take([raw])[0]).kind == requests.FAILED

    @given(
        st.sampled_from([requests.CALL, requests.PREPARE, requests.STATE, requests.RELEASE, "graph/full", "x"]),
        st.dictionaries(
            st.sampled_from(["graph", "prepared", "numbers", "state", "gives", "weights", "versions", "about"]),
            st.sampled_from([None, 1, -1, 2**70, "x", [], [[0]], [[0, "s", 1, 2]], {}, {"s": 1}, ["a" * 64], [1.5]]),
        ),
    )
    def test_fields_that_are_anything_are_an_answer(self, kind: str, fields: dict[str, Any]) -> None:
        worker = Worker(Running())
        answers = worker.ask(encode(kind, fields))
        assert answers[-1].kind in (requests.FAILED, requests.LACKS, requests.RELEASED, requests.KEPT)
        assert worker.running.calls == 0

    def test_of_a_probe_nothing_is_kept(self) -> None:
        worker = Worker(Running())
        (answer,) = worker.ask(encode(requests.PROBE, {}, {"probe": payload_of(torch.ones(50))}))
        assert answer.kind == requests.PROBED
        assert worker.serving.held_bytes == 0

    def test_a_call_goes_there_and_back(self) -> None:
        call = Call(
            graph="a" * 64, prepared="b" * 64, numbers={0: 1, 2: None}, state={1: ("s", 4)}, becomes={1: 5},
            from_others={3: (0, 1)}, gives=(0,), passes=(1,), written={1: Written(dim=2, index=("o", 3)), 4: Written()},
        )  # fmt: skip
        assert call_of(decode(joined(encode("call", call.to_fields()))).fields) == call

    def test_an_error_of_the_build_is_told(self) -> None:
        def build(graph: GraphForm, about: Mapping[str, Any]) -> Running:
            raise EngineError("it cannot be compiled here")

        serving = Serving(build, 1)
        graph, _ = form(1)
        sender = Sender(1)
        (ready,) = serving.take([joined(to_frame(sender.update(graph, {})[0]))])
        assert isinstance(from_frame(decode(ready)), Ready)
        (told,) = serving.take([joined(encode(requests.PREPARE, {"graph": graph.digest, "about": {}}))])
        assert decode(told).kind == requests.FAILED
        assert decode(told).fields["error"] == "EngineError"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="djinn_fx.remote")
