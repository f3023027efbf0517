"""How a cell can end without a result: recorded as its outcome, so that the other cells go on and the table shows the hole."""


class NoResult(RuntimeError):
    """The cell ended without a result, and running it again would end the same; `status` says why in a word."""

    status = "failed"


class Diverged(NoResult):
    """A loss was not finite."""

    status = "diverged"


class CannotExchange(NoResult):
    """The method has its networks exchange weights, and these networks cannot."""

    status = "cannot exchange"


class NotApplicable(NoResult):
    """The method has no meaning for these networks."""

    status = "not applicable"


class NoTeacher(NoResult):
    """The teacher's own cell has no result."""

    status = "no teacher"
