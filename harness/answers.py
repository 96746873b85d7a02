"""Generated answers read back as classes or scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

UNPARSABLE = -1  # stands for an answer that is none: no class, and below every score (as PROPETL's code has it)


@dataclass(frozen=True)
class Answers:
    """The words of a text-to-text classification, by class; without words, the answer is a number."""

    words: tuple[str, ...]

    def parse(self, text: str) -> int | float | None:
        """The class or score that a text says, or None. Case and spacing around it do not count."""
        said = text.strip().casefold()
        if self.words:
            known = [word.strip().casefold() for word in self.words]
            return known.index(said) if said in known else None
        try:
            number = float(said)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
