"""What became of everything that was generated. The counts add up, always."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of one stage and stratum: `generated` = `kept` + the sum of `dropped`."""

    wanted: int = 0
    generated: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def keep(self) -> None:
        self.generated += 1
        self.kept += 1

    def drop(self, reason: str) -> None:
        self.generated += 1
        self.dropped[reason] += 1

    def lose(self, reason: str) -> None:
        """Drop one that was kept so far."""
        self.kept -= 1
        self.dropped[reason] += 1

    def as_json(self) -> dict[str, object]:
        """Plain values; reasons sorted."""
        return {
            "wanted": self.wanted,
            "generated": self.generated,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
        }
