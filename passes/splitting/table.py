"""Tables of rules: by an op's name, what tells where its result has its samples. What is in none is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from djinn_fx.passes.splitting.call import Fact, OpCall

#: Of each result, or of all alike.
Found = Fact | Sequence[Fact]
Rule = Callable[[OpCall], Found]

Rules = dict[str, Rule]


def into(rules: Rules) -> Callable[..., Callable[[Rule], Rule]]:
    """A decorator that takes names of ops and puts the function down for them."""

    def rule(*names: str) -> Callable[[Rule], Rule]:
        def added(made: Rule) -> Rule:
            rules.update(dict.fromkeys(names, made))
            return made

        return added

    return rule
