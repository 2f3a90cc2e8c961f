"""What changed from one graph to the next, as JSON, and a graph with that applied.

Edits are few because the canonical form repeats itself. Ops that go on keep their numbers' meaning, whatever was put in
before them. A shape that changes (a longer prompt) does so in hundreds of ops, but as a few dozen distinct descriptions
of values and calls: one rule for each. What the rules do not get right is sent as it is; the sender finds that out by
applying its own edits.

    inputs, ops   {"order": [[place, count] of the old ones | count of added ones, …], "added": […]}
    calls, values [[number of an old value, what its call or description is now], …]: so for all that are like it
    changed, changed_inputs   [[place, op or description], …]: as given, whatever the rules say
    storages, outputs, symbols, devices, hints: the new ones; left out where they follow from the old
    weights       [[input, digest, bytes] | [input], …]: others than the old ones; none for the latter
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from djinn_fx.remote.delta.alignment import aligned
from djinn_fx.remote.delta.gaps import filled
from djinn_fx.remote.delta.graph import GraphForm, checked
from djinn_fx.srg.form.hashing import as_text

_WHOLE = ("symbols", "outputs")
_BESIDE = ("devices", "hints")


class DoesNotFit(Exception):
    """Edits that do not belong to the graph they were applied to."""


def difference(old: GraphForm, new: GraphForm) -> dict[str, Any]:
    """The edits that make ``new`` of ``old``."""
    inputs = _aligned_inputs(old, new)
    ops = _aligned_ops(old, new, dict(inputs))
    edits: dict[str, Any] = {
        "inputs": _order(inputs, old.form["inputs"], [[value, []] for value, _ in new.form["inputs"]]),
        "ops": _order(ops, old.form["ops"], new.form["ops"]),
    }
    calls, values = _rules(old, new, inputs, ops)
    edits |= {name: rules for name, rules in (("calls", calls), ("values", values)) if rules}
    edits |= _exceptions(new, _made(old, edits))
    edits |= {name: new.content[name] for name in _BESIDE if new.content[name] != old.content[name]}
    return edits


def _exceptions(new: GraphForm, made: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be said beside the rules, given what these alone make."""
    form, got = new.form, made["form"]
    inputs = [
        [place, value]
        for place, ((value, _), (other, _)) in enumerate(zip(form["inputs"], got["inputs"], strict=True))
        if value != other
    ]
    ops = [[place, op] for place, (op, other) in enumerate(zip(form["ops"], got["ops"], strict=True)) if op != other]
    storages = [shared for _, shared in form["inputs"]]
    if storages == [shared for _, shared in got["inputs"]]:
        storages = []
    bound, guessed = _by_input(new.content["weights"]), _by_input(made["weights"])
    weights = [[number, *one] for number, one in bound.items() if guessed.get(number) != one]
    weights += [[number] for number in guessed if number not in bound]
    found = {"changed_inputs": inputs, "changed": ops, "storages": storages, "weights": weights}
    whole = {name: form[name] for name in _WHOLE if form[name] != got[name]}
    return {name: value for name, value in found.items() if value} | whole


def applied(old: GraphForm, edits: Any, max_bytes: int) -> GraphForm:
    """The graph that edits make of ``old``.

    Args:
        old: which they were made for.
        edits: of anybody's.
        max_bytes: of the new graph's text; no larger one is made.

    Raises:
        DoesNotFit: they were made for another graph, or are no edits.
    """
    try:
        content = _made(old, edits, max_bytes)
        return checked(content)
    except DoesNotFit:
        raise
    except Exception as error:  # edits are data: whatever is wrong with them ends here
        raise DoesNotFit(f"{type(error).__name__}: {str(error)[:200]}") from error


# Making edits


def _aligned_inputs(old: GraphForm, new: GraphForm) -> list[tuple[int, int]]:
    """By the weight or description, then by the description alone, then by type and number of dimensions."""

    def looks(graph: GraphForm) -> list[list[Any]]:
        bound = _by_input(graph.content["weights"])
        texts = graph.parts.value_texts[: len(graph.form["inputs"])]
        kinds = [(value[0], len(value[1])) for value, _ in graph.form["inputs"]]
        return [[bound[n][0] if n in bound else text for n, text in enumerate(texts)], texts, kinds]

    return aligned(list(zip(looks(old), looks(new), strict=True)))


def _aligned_ops(old: GraphForm, new: GraphForm, inputs: dict[int, int]) -> list[tuple[int, int]]:
    """By what is called with which inputs of the graph, then by what is called."""

    def looks(graph: GraphForm, names: dict[int, int]) -> list[list[Any]]:
        many = len(graph.form["inputs"])
        read = [[names.get(n, -1) for n in numbers if n < many] for numbers in graph.parts.numbers]
        targets = [op[0] for op in graph.form["ops"]]
        return [[(target, *numbers) for target, numbers in zip(targets, read, strict=True)], targets]

    same = {number: number for number in range(len(new.form["inputs"]))}
    return aligned(list(zip(looks(old, inputs), looks(new, same), strict=True)))


def _order(pairs: Iterable[tuple[int, int]], old: Sequence[Any], new: Sequence[Any]) -> dict[str, Any]:
    """Which of the old ones follow one another, and what comes between them."""
    order: list[Any] = []
    added: list[Any] = []
    done = 0
    for one, other in (*pairs, (len(old), len(new))):
        if other > done:
            added += new[done:other]
            order.append(other - done)
        last = order[-1] if order else None
        if other < len(new):
            if isinstance(last, list) and other == done and sum(last) == one:
                last[1] += 1
            else:
                order.append([one, 1])
        done = other + 1
    return {"order": order, "added": added} if added else {"order": order}


def _rules(
    old: GraphForm, new: GraphForm, inputs: list[tuple[int, int]], ops: list[tuple[int, int]]
) -> tuple[list[Any], list[Any]]:
    """For calls and for descriptions of values: the old one by a number that has it, and what most of them become."""
    before, after = old.parts, new.parts
    many, many_now = len(old.form["inputs"]), len(new.form["inputs"])
    calls, values = _Becoming(), _Becoming()
    for one, other in inputs:
        values.add(one, before.value_texts[one], after.value_texts[other], new.form["inputs"][other][0])
    for one, other in ops:
        values.add(
            many + one, before.value_texts[many + one], after.value_texts[many_now + other], new.form["ops"][other][3]
        )
        if len(before.numbers[one]) == len(after.numbers[other]):
            calls.add(many + one, before.call_texts[one], after.call_texts[other], after.calls[other])
    return calls.rules(), values.rules()


class _Becoming:
    """Counts what things that are alike become."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._then: dict[str, Counter[str]] = defaultdict(Counter)
        self._form: dict[str, Any] = {}

    def add(self, number: int, before: str, after: str, form: Any) -> None:
        """One of them, by the number of its value; as texts, and what it becomes as it is."""
        self._first.setdefault(before, number)
        self._form.setdefault(after, form)
        self._then[before][after] += 1

    def rules(self) -> list[Any]:
        """What most become, where that is something else."""
        found = []
        for text, number in self._first.items():
            ((most, _),) = self._then[text].most_common(1)
            if most != text:
                found.append([number, self._form[most]])
        return found


# Applying them


def _made(old: GraphForm, edits: Any, max_bytes: int | None = None) -> dict[str, Any]:
    """The new content; where a number is gone and nothing was given in its place stands -1, which no graph has.

    Raises:
        DoesNotFit: it would be longer than ``max_bytes``.
    """
    form, many = old.form, len(old.form["inputs"])
    kept, added = _placed(edits["inputs"], many)
    kept_ops, added_ops = _placed(edits["ops"], len(form["ops"]))
    number = {one: place for place, one in enumerate(kept) if one is not None}
    number |= {many + one: len(kept) + place for place, one in enumerate(kept_ops) if one is not None}
    rewriting = _Rewriting(old, edits, max_bytes)
    inputs = [next(added) if one is None else rewriting.input(one) for one in kept]
    for place, value in edits.get("changed_inputs", ()):
        inputs[place] = [value, []]
    storages = edits.get("storages") or _storages(inputs)
    ops = [next(added_ops) if one is None else rewriting.op(one, number) for one in kept_ops]
    for place, op in edits.get("changed", ()):
        ops[place] = op
    made = {
        "inputs": [[value, shared] for (value, _), shared in zip(inputs, storages, strict=True)],
        "ops": ops,
        "outputs": [number.get(one, -1) for one in form["outputs"]],
        "symbols": form["symbols"],
        **{name: edits[name] for name in _WHOLE if name in edits},
    }
    beside = {name: edits.get(name, old.content[name]) for name in _BESIDE}
    return {"form": made, **beside, "weights": _weights(old, edits, number)}


def _weights(old: GraphForm, edits: Any, number: Mapping[int, int]) -> list[list[Any]]:
    """What goes into which input."""
    bound = {number[one]: [name, size] for one, name, size in old.content["weights"] if one in number}
    for place, *one in edits.get("weights", ()):
        bound.pop(place, None)
        if one:
            bound[place] = one
    return [[place, *one] for place, one in sorted(bound.items())]


def _placed(part: Any, count_before: int) -> tuple[list[int | None], Iterator[Any]]:
    """For each new place the old one that goes on there, None for an added one; and those that are added."""
    places: list[int | None] = []
    added, last = part.get("added", []), 0
    for item in part["order"]:
        if isinstance(item, int):
            places += [None] * min(item, len(added) + 1)
            continue
        begin, count = item
        # Rising, so that nothing is taken twice and the new graph is no larger than the old one and what came.
        if not last <= begin <= begin + count <= count_before:
            raise DoesNotFit("it goes on with what is not there")
        places += range(begin, begin + count)
        last = begin + count
    if places.count(None) != len(added):
        raise DoesNotFit("more or fewer were added than it says")
    return places, iter(added)


def _storages(inputs: Sequence[Any]) -> list[list[int]]:
    """Memory numbered by first use, if every input has its own."""
    found, known = [], 0
    for value, _ in inputs:
        count = 1 if len(value) >= 5 else 0
        found.append(list(range(known, known + count)))
        known += count
    return found


class _Rewriting:
    """Ops of the old graph by the rules of some edits, up to a length of text."""

    def __init__(self, old: GraphForm, edits: Any, max_bytes: int | None) -> None:
        self._old, self._parts, self._many = old, old.parts, len(old.form["inputs"])
        self._values = {
            self._parts.value_texts[number]: (len(as_text(then)), then) for number, then in edits.get("values", ())
        }
        self._calls = {
            self._parts.call_texts[number - self._many]: (len(as_text(then)), then)
            for number, then in edits.get("calls", ())
        }
        self._left = max_bytes

    def input(self, place: int) -> list[Any]:
        """An input."""
        value, storages = self._old.form["inputs"][place]
        return [self._value(place, value), storages]

    def op(self, place: int, number: Mapping[int, int]) -> list[Any]:
        """An op, with the new numbers of what it reads."""
        *call, value = self._old.form["ops"][place]
        size, then = self._calls.get(self._parts.call_texts[place], (0, None))
        self._take(size)
        numbers = self._parts.numbers[place]
        read = [number.get(one, -1) for one in numbers]
        if then is not None or read != numbers:
            call = filled(self._parts.calls[place] if then is None else then, read)
        return [*call, self._value(self._many + place, value)]

    def _value(self, number: int, value: Any) -> Any:
        if not self._values:
            return value
        size, then = self._values.get(self._parts.value_texts[number], (0, value))
        self._take(size)
        return then

    def _take(self, size: int) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise DoesNotFit("it would become larger than a graph may be")


def _by_input(weights: Iterable[Sequence[Any]]) -> dict[int, list[Any]]:
    return {number: [name, size] for number, name, size in weights}
