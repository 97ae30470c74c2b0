"""What a check gives back: the worst error per law, or one sentence that says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field


class CheckError(AssertionError):
    """A derivative is wrong: the message names the law, the function, the argument and both numbers."""


class KinkError(CheckError):
    """The point has no derivative to compare with: the function has a kink or a jump there."""


@dataclass
class Report:
    """The worst relative error of each law that held, such as {"JVP of VJP": 3e-10, "adjoint": 1e-16}."""

    name: str
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=0.0)

    def add(self, law: str, error: float) -> None:
        self.errors[law] = max(error, self.errors.get(law, 0.0))

    def __str__(self) -> str:
        return f"{self.name}: " + ", ".join(f"{law} {error:.1e}" for law, error in self.errors.items())


def not_negative(atol: float) -> float:
    """The tolerance; ValueError for less than 0, with which everything would pass, and for what is not finite."""
    if not 0 <= atol < float("inf"):
        raise ValueError(f"check: atol is {atol}, expected a finite number, 0 or more")
    return atol


def positive(rtol: float) -> float:
    """The tolerance; ValueError for 0 or less, which no rounding error would pass."""
    if not rtol > 0:
        raise ValueError(f"check: rtol is {rtol}, expected more than 0, for numbers are rounded")
    return rtol
