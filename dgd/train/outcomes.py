"""The ways in which a cell can end without a result; each is recorded, so that other cells go on and tables show it."""

import re

NO_MEMORY = "(out of|can't allocate|cannot allocate) memory|could not create a primitive"
"""How torch, the system and oneDNN say that there is too little memory."""


class NoResult(RuntimeError):
    """An error that ends a cell without a result, and would again if the cell were repeated; `status` names the reason."""

    status = "failed"


class Diverged(NoResult):
    """A loss that was not finite."""

    status = "diverged"


class CannotExchange(NoResult):
    """A method that exchanges weights, with networks that cannot."""

    status = "cannot exchange"


class NotApplicable(NoResult):
    """A method that is not defined for these networks, or a network that cannot be built for these images."""

    status = "not applicable"


class NoImages(NoResult):
    """Training images that could not be generated."""

    status = "no images"


class NoTeacher(NoResult):
    """A teacher whose cell has no result."""

    status = "no teacher"


class CannotCapture(RuntimeError):
    """A step that could not be captured as a CUDA graph; CUDA cannot be used any more in this process.

    Attributes:
        path: The cell's path.
    """

    def __init__(self, path: str, why: str):
        super().__init__(f"{path}: its step cannot be captured as a CUDA graph: {why}")
        self.path, self.why = path, why


class OutOfTime(RuntimeError):
    """A training that ended because its time was over; started again, it goes on from its resume point."""


class OutOfMemory(RuntimeError):
    """A training for which the memory did not suffice; with more of it, or with less asked for, the same command goes on."""

    @classmethod
    def of(cls, error: Exception, path: str) -> "OutOfMemory | None":
        """Return it where that is what an error of torch, numpy or the system says; `path` is the cell's."""
        text = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not re.search(NO_MEMORY, text, re.IGNORECASE):
            return None
        return cls(f"{path}: not enough memory; lower recipe.batch_size or together ({text[:200] or type(error).__name__})")
