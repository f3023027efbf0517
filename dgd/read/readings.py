"""Parse a reading of a method's cells: `<method>` or `<method>@<how>`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What of a method's cells is read.

    Attributes:
        method: Its label.
        how: `last`: the reported network at the last epoch; `best-on-test`: its best epoch on the test split; `mean`, `best`:
            the mean of the group's networks or the best of them, at the last epoch; `ensemble`: the mean of the group's
            predictions, at the last epoch.
    """

    method: str
    how: str = "last"

    @classmethod
    def parse(cls, text: str) -> "Reading":
        """Return the reading that a text names: `independent@best`."""
        method, _, how = text.partition("@")
        return cls(method, how or "last")

    def __str__(self) -> str:
        return self.method if self.how == "last" else f"{self.method}@{self.how}"
