"""Which ops a user's pins are about: module paths as Dynamo recorded them, met by paths with ranges of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch.fx import Node

from djinn_fx.errors import SettingsError, did_you_mean
from djinn_fx.passes.meaning.paths import within_model
from djinn_fx.settings.devices import Pin

#: As in ``layers[0]`` and ``_modules['layers']``.
_INDEX = re.compile(r"\[['\"]?([^'\"\]]+)['\"]?\]")
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")


def module_path(node: Node) -> str:
    """The dotted path of the module that an op was called in, as ``named_modules`` has it; empty for none."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    return dotted(str(next(reversed(stack.values()))[0])) if stack else ""


def dotted(source: str) -> str:
    """A module's path from where Dynamo found it."""
    return _INDEX.sub(r".\1", within_model(source)).replace("_modules.", "").strip(".")


class Pins:
    """Pins, asked for what they say of a module.

    Args:
        pins: the user's.
    """

    def __init__(self, pins: Sequence[Pin]) -> None:
        self._pins = [(tuple(pin.module.split(".")) if pin.module else (), pin) for pin in pins]
        self._known: dict[str, Pin | None] = {}

    def of(self, path: str) -> Pin | None:
        """The pin of a module: that with the longest path; None if there is none.

        Raises:
            SettingsError: two of them contradict each other.
        """
        if path not in self._known:
            self._known[path] = self._found(path)
        return self._known[path]

    def _found(self, path: str) -> Pin | None:
        parts = tuple(path.split(".")) if path else ()
        meant = [(len(wanted), pin) for wanted, pin in self._pins if _begins(parts, wanted)]
        if not meant:
            return None
        longest = max(length for length, _ in meant)
        best = [pin for length, pin in meant if length == longest]
        other = next((pin for pin in best if pin.device != best[0].device), None)
        if other is not None:
            first = best[0]
            where = ".".join(parts[:longest]) or "the whole model"
            raise SettingsError(
                f"two pins contradict each other: {where} is to run on {first.device} by {first.written} "
                f"{first.module!r} and on {other.device} by {other.written} {other.module!r}; leave one out"
            )
        return best[0]

    def check(self, modules: Iterable[str]) -> None:
        """See to it that every pin is about some module of the model, and that none contradict each other.

        Args:
            modules: the paths of all its modules.

        Raises:
            SettingsError: one is about none, and the nearest path; or as :meth:`of`.
        """
        names = [name for name in dict.fromkeys(modules) if name]
        split = [tuple(name.split(".")) for name in names]
        for wanted, pin in self._pins:
            if wanted and not any(_begins(parts, wanted) for parts in split):
                few = sorted({parts[0] for parts in split})[:12]
                hint = did_you_mean(pin.module, [*names, *_ranges(split)], f"; it has {', '.join(few)}", cutoff=0.5)
                raise SettingsError(f"{pin.written}: the model has no module {pin.module!r}{hint}")
        for name in names:
            self.of(name)


def _begins(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    return len(wanted) <= len(parts) and all(_meets(part, one) for part, one in zip(parts, wanted, strict=False))


def _meets(part: str, wanted: str) -> bool:
    between = _RANGE.fullmatch(wanted)
    if between is None:
        return part == wanted
    return part.isdigit() and int(between[1]) <= int(part) <= int(between[2])


def _ranges(split: Iterable[Sequence[str]]) -> set[str]:
    """Containers with the numbers they hold, as a pin may name them: ``layers.0-11``."""
    most: dict[str, int] = {}
    for parts in split:
        if parts[-1].isdigit():
            owner = ".".join(parts[:-1])
            most[owner] = max(most.get(owner, 0), int(parts[-1]))
    return {f"{owner}.0-{last}".strip(".") for owner, last in most.items()}
