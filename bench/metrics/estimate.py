"""The only form in which a metric leaves this project: a value with its interval, n and the kind of interval."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A metric's value. low/high: 95 % interval (None: not estimable, and why in `note`); n: units it rests on."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    interval: str  # e.g. "patient-clustered logit", "patient bootstrap BCa (5000)", "Wilson"
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "note" or v}

    def __str__(self) -> str:
        if self.value is None:
            return f"- ({self.note})" if self.note else "-"
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (no interval: {self.note or self.interval}; n={self.n})"
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f}; n={self.n})"
