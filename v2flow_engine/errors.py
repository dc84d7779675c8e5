"""The errors that a user's input can cause. The command line prints them as one line and exits with 2."""


class V2FlowError(ValueError):
    """Something that came from outside is not as expected; the message says what came and what was expected."""


class ModelFolderError(V2FlowError):
    """A model name is unknown, or a model folder is missing, incomplete or contradicts itself."""


class RequestError(V2FlowError):
    """A request asks for something that this model cannot do: prompt, size, length or a parameter out of range.

    param: the name of the parameter that is to blame, where one is.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class OutputError(V2FlowError):
    """The place to write to is not writable, or holds something that must not be overwritten."""


class DataError(V2FlowError):
    """A dataset or a package of source data is missing, incomplete or not what was pinned."""


class ReleaseError(V2FlowError):
    """An installed package is of a release that this project was not written for."""


class EngineDeadError(RuntimeError):
    """An engine stopped working. Not the fault of one request, so never attributed to one."""


class QueueFullError(RuntimeError):
    """Too many requests are under way. retry_after: seconds until there may be room."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
