"""A value with its interval."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# A number, or an array of numbers. It is Any to type checkers, because otherwise every use that
# indexes, compares or prints an estimate would need a cast to one of the two.
Numbers: TypeAlias = Any


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval and the number of samples behind it.

    The three may be arrays of one shape, such as one entry an exit. A format spec is applied to
    all three: f"{e:.0%}" gives `36% [29%, 42%]`, f"{e:+.2f}" gives `+0.31 [+0.10, +0.52]`, and
    f"{e:points}" gives a difference of shares in percentage points, `+22 [+19, +24] points`.
    Bounds of NaN mean that the data are too few for any: `36% (n=6: no interval)`, in round
    brackets because a terminal may take words in square ones for markup.
    """

    value: Numbers
    low: Numbers
    high: Numbers
    n: int | None = field(default=None, kw_only=True)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Estimate":
        """The estimate in a row (or columns) named value, low, high and, if there is one, n."""
        return cls(row["value"], row["low"], row["high"], n=row.get("n"))

    def __getitem__(self, place) -> "Estimate":
        """The estimate at one place, or at several, of the arrays."""
        return Estimate(self.value[place], self.low[place], self.high[place], n=self.n)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator["Estimate"]:
        return (self[place] for place in range(len(self)))

    def __format__(self, spec: str) -> str:
        scale, spec, unit = (100, "+.0f", " points") if spec == "points" else (1, spec, "")
        value, low, high = (float(x) * scale for x in (self.value, self.low, self.high))
        if math.isnan(value):
            return "not measured"
        if math.isnan(low) or math.isnan(high):
            reason = "no interval" if self.n is None else f"n={self.n}: no interval"
            return f"{value:{spec}}{unit} ({reason})"
        return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]{unit}"

    def __str__(self) -> str:
        return format(self, ".2f")
