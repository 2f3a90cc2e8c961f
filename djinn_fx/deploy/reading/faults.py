"""What is wrong with the files that were given: gathered, and told in one error."""

from __future__ import annotations

from dataclasses import dataclass, field

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.yaml_places import Entry

#: Faults that are told; of more, how many there are.
MOST = 20
#: Characters of one that are told: what stands in a file may be long.
LONGEST = 500


@dataclass
class Faults:
    """Places and what is wrong there."""

    found: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, place: Entry | str, text: str) -> None:
        """Keep one.

        Args:
            place: where, or text such as ``requests.yaml:12``.
            text: what is wrong, what to do.
        """
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        where = place if isinstance(place, str) else f"{place.file}:{place.line}:{place.column}"
        if len(self.found) < MOST:
            self.found.append(f"{where}: {text}")
        else:
            self.more += 1

    @property
    def full(self) -> bool:
        """Whether further faults would not be told."""
        return len(self.found) >= MOST

    def tell(self) -> None:
        """Raise if there is any.

        Raises:
            SettingsError: with a line for each.
        """
        if self.found:
            last = [f"... and {self.more} more"] if self.more else []
            raise SettingsError("\n".join([*self.found, *last]))
