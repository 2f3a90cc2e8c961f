"""Policies by name, those of others too."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from djinn_fx.errors import SettingsError, did_you_mean
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.baselines.arc import ARC
from djinn_fx.sessions.policy.baselines.clairvoyant import Clairvoyant
from djinn_fx.sessions.policy.baselines.eager import EagerSwap
from djinn_fx.sessions.policy.baselines.lru import LIFO, LRU, Recompute
from djinn_fx.sessions.policy.baselines.min_waste import MinWaste
from djinn_fx.sessions.policy.baselines.steps import Steps
from djinn_fx.sessions.policy.baselines.ttl import TTL
from djinn_fx.sessions.policy.value import ByValue

#: The default first.
POLICIES: dict[str, Callable[..., Policy]] = {
    "djinn": ByValue,
    "recompute": Recompute,
    "lru": lambda **options: LRU(host=False, **options),
    "lru-host": LRU,
    "lifo": LIFO,
    "arc": ARC,
    "ttl": TTL,
    "min-waste": MinWaste,
    "steps": Steps,
    "eager-swap": EagerSwap,
    "clairvoyant": Clairvoyant,
}


def policy_named(name: str, **options: Any) -> Policy:
    """A policy of its own for one pool: a name of the table, or ``"package.module:Class"`` for one of the user's.

    Raises:
        SettingsError: there is none of that name, or it is no policy.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            made = vars(importlib.import_module(module))[attribute](**options)
        except (ImportError, KeyError, TypeError) as error:
            raise SettingsError(f"no session policy {name!r}: {error}") from error
        if not isinstance(made, Policy):
            raise SettingsError(f"{name!r} is no session policy: it must derive from {Policy.__module__}.Policy")
        return made
    if name not in POLICIES:
        raise SettingsError(
            f"no session policy {name!r}{did_you_mean(name, POLICIES, '.')} Known: {', '.join(POLICIES)}"
        )
    return POLICIES[name](**options)
