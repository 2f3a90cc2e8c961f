"""What ``parse_passes`` reads, written."""

from __future__ import annotations

import dataclasses

from djinn_fx.passes.base import Pass


def to_text(one: Pass) -> str:
    """A pass in text: its name and the options that differ from the default, e.g. ``find-regions{min-ops=4}``."""
    options = []
    for option in dataclasses.fields(one):  # type: ignore[arg-type]
        value = getattr(one, option.name)
        if value != option.default:
            options.append(f"{option.name.replace('_', '-')}={value}")
    return one.name + ("{" + ",".join(options) + "}" if options else "")
