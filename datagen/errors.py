"""One way to fail.

    TemperError
    ├── DataError         a data set, its settings or a row of it
    │   └── Shortfall       a writer that cannot fill its quota
    ├── EngineError       the text generator
    ├── JudgeError        the reader of answers
    ├── CheckpointError   a model folder                        (optimizer.errors)
    │   └── PoolError       models that cannot be merged together
    ├── RecipeError       what to merge and how
    ├── SearchError       the search for coefficients
    └── ServiceError      the service, with an HTTP status      (service.kit.errors)

Every message names the thing, what was found, what was expected and the mend.
"""


class TemperError(Exception):
    """Root of every error a user can cause.

    Args:
        message: names the thing, what was found and what was expected.
        mend: what to do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}\n  mend: {self.mend}" if self.mend else self.message


class DataError(TemperError):
    """A data set, its settings or one of its rows is not what it must be."""


class Shortfall(DataError):  # noqa: N818 - it is what it is called
    """A question writer could not fill its quota within its attempts."""


class EngineError(TemperError):
    """The engine that writes text could not start, load a model or answer."""


class JudgeError(TemperError):
    """A judge could not be built or gave no usable verdict."""
