"""The names that users import: each from ``djinn_fx``, and from where README once showed it."""

from __future__ import annotations

import importlib

import pytest

import djinn_fx


@pytest.mark.parametrize("name", djinn_fx.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(djinn_fx, name) is not None


def test_another_name_is_an_error_like_any_modules() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        djinn_fx.nonsense  # noqa: B018


@pytest.mark.parametrize(("module", "name"), [("djinn_fx.runtime.saveable", "saveable_guards")])
def test_an_old_home_still_gives_the_name_and_says_where_it_is_now(module: str, name: str) -> None:
    old = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=f"djinn_fx.{name}"):
        assert getattr(old, name) is getattr(djinn_fx, name)
    assert not hasattr(old, "nonsense")


def test_what_readme_showed_of_cost_models_is_there_still() -> None:
    from djinn_fx.costmodels import Estimate

    assert Estimate is djinn_fx.Estimate
