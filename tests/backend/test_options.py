"""Options of torch.compile: checked before any work, and the user's dictionary stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from djinn_fx.backend import compilations, reset
from djinn_fx.errors import SettingsError
from tests.backend.support import Noted, djinn, same, stacked


def message(**given: Any) -> str:
    """What torch.compile with these options says on the first call. Nothing may have been compiled."""
    reset()
    with pytest.raises(BackendCompilerFailed) as caught:
        torch.compile(lambda x: x + 1, backend="djinn", **given)(torch.ones(2))
    assert isinstance(caught.value.__cause__ or caught.value.inner_exception, SettingsError)
    assert not compilations()
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "near"), [("engin", "engine"), ("on_failur", "on_failure"), ("cachedir", "cache_dir"), ("pass", "passes")]
)
def test_a_typing_error_is_named(wrong: str, near: str) -> None:
    text = message(options={wrong: 1})
    assert repr(wrong) in text
    assert f"did you mean {near!r}" in text


def test_an_unknown_option_lists_the_known() -> None:
    text = message(options={"zzz": 1})
    assert "'zzz'" in text
    assert "expected_calls" in text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("engine", "inductr"),
        ("engine", 3),
        ("expected_calls", 0),
        ("expected_calls", "many"),
        ("regions", "auto:1.5"),
        ("cache", "perhaps"),
        ("cache_limit", "20 parsecs"),
        ("regions", None),
        ("passes", "find-regions"),
        ("on_failure", "ignore"),
    ],
)
def test_a_wrong_value_is_named(option: str, value: object) -> None:
    text = message(options={option: value})
    assert option in text
    assert str(value) in text


@pytest.mark.parametrize(
    "passes", [["no-such-pass"], ["find-regions{size=3}"], ["find-regions{min-ops=few}"], ["find-regions{"]]
)
def test_wrong_passes(passes: list[str]) -> None:
    assert "pass" in message(options={"passes": passes})


def test_passes_without_regions() -> None:
    assert "find-regions" in message(options={"passes": ["estimate-cost"]})


def test_unknown_mode() -> None:
    text = message(mode="fastest")
    assert "fastest" in text
    assert "max-autotune" in text


def test_the_users_dictionary_stays_as_it_was() -> None:
    options: dict[str, Any] = {"engine": "eager", "regions": "whole", "guard_filter_fn": None}
    options.pop("guard_filter_fn")
    before = dict(options)
    torch.compile(lambda x: x + 1, backend="djinn", options=options)(torch.ones(2))
    assert options == before


def test_torchs_own_options_are_let_through() -> None:
    """guard_filter_fn is torch's; here it drops every guard, so a second shape is not seen."""
    noted = Noted()
    run = djinn(lambda x: x.sin(), {"engine": "eager", "guard_filter_fn": lambda guards: [False for _ in guards]})
    same(run(torch.ones(2)), torch.ones(2).sin())
    assert len(noted.graphs) == 1


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_ENGINE", "eager")
    noted = Noted()
    run = torch.compile(lambda x: x.sin() + 1, backend="djinn")
    same(run(torch.ones(3)), torch.ones(3).sin() + 1)
    assert [build.engine for graph in noted.graphs for build in graph.builds] == ["eager"]


def test_project_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "djinn.yaml").write_text("engine: eager\nregins: whole\n")
    monkeypatch.chdir(tmp_path)
    text = message()
    assert "djinn.yaml:2" in text
    assert "'regions'" in text


def test_options_decide_what_is_compiled() -> None:
    """The same function under two sets of options is compiled twice."""
    noted = Noted()
    module, x = stacked(), torch.randn(5, 6)
    with torch.no_grad():
        for options in ({"engine": "eager", "regions": "whole"}, {"engine": "eager", "expected_calls": 7}):
            same(djinn(module, options)(x), module(x))
    assert len(noted.graphs) == 2


def test_own_pass_runs() -> None:
    from dataclasses import dataclass
    from typing import ClassVar

    from djinn_fx.passes.base import PassContext, PassResult
    from djinn_fx.passes.pipeline import DEFAULT
    from djinn_fx.srg.graph import SRG

    seen: list[int] = []

    @dataclass(frozen=True, kw_only=True)
    class Count:
        name: ClassVar[str] = "count"
        after: ClassVar[tuple[str, ...]] = ()
        requires: ClassVar[tuple[str, ...]] = ()
        ensures: ClassVar[tuple[str, ...]] = ()

        def run(self, srg: SRG, context: PassContext) -> PassResult:
            seen.append(len(list(srg.ops)))
            return PassResult(modified=False)

    run = djinn(lambda x: x.sin() + 1, {"engine": "eager", "passes": [Count(), *DEFAULT]})
    same(run(torch.ones(3)), torch.ones(3).sin() + 1)
    assert seen == [2]


def test_passes_as_text() -> None:
    names = ["estimate-cost", "find-regions{min-ops=2}", "colocate", "place", "order"]
    noted = Noted()
    module, x = stacked(), torch.randn(5, 6)
    with torch.no_grad():
        same(djinn(module, {"engine": "eager", "passes": names})(x), module(x))
    assert [timing.name for timing in noted.graphs[0].pass_timings] == [
        "estimate-cost", "find-regions", "colocate", "place", "order",
    ]  # fmt: skip


def test_a_failing_pass_is_named() -> None:
    from dataclasses import dataclass
    from typing import ClassVar

    @dataclass(frozen=True, kw_only=True)
    class Broken:
        name: ClassVar[str] = "broken"
        after: ClassVar[tuple[str, ...]] = ()
        requires: ClassVar[tuple[str, ...]] = ()
        ensures: ClassVar[tuple[str, ...]] = ()

        def run(self, srg: object, context: object) -> object:
            raise KeyError("lost")

    run = djinn(lambda x: x.sin(), {"engine": "eager", "passes": ["estimate-cost", Broken(), "find-regions"]})
    with pytest.raises(BackendCompilerFailed, match=r"'broken' failed with KeyError.*estimate-cost"):
        run(torch.ones(3))
