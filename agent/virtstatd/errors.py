"""Exceptions, named for what the caller should do next."""


class VirtstatdError(Exception):
    """The root of every exception that this package raises on purpose."""


class ConfigError(VirtstatdError):
    """The configuration is wrong; `faults` holds one line per fault, all of them at once."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class StartError(VirtstatdError):
    """The agent cannot start here; the message is one sentence that names the fix."""


class PortInUse(StartError):  # noqa: N818 - named for the state
    """Another process already listens at the address of a sink."""

    def __init__(self, reason: str, host: str, port: int) -> None:
        super().__init__(reason)
        self.host = host
        self.port = port


class TryLater(VirtstatdError):  # noqa: N818 - named for what the caller does
    """
    The destination is unavailable; the same batch may succeed later.

    `after_seconds` is the delay that the destination asked for, None if it gave none. `answered`
    says that the destination received the batch and answered with a failure, as with HTTP 5xx: if
    that lasts long enough, the batch is searched for the series that the destination cannot accept.
    A refused connection says nothing about the batch.
    """

    def __init__(
        self,
        reason: str = "unavailable",
        after_seconds: float | None = None,
        *,
        answered: bool = False,
    ) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds
        self.answered = answered


class Rejected(VirtstatdError):  # noqa: N818 - named for what happened to the batch
    """
    The destination will never take this batch; sending it again is pointless.

    `samples` is how many of it were refused if the destination has the others; None is all.
    `atomic` says that it has none of it because of a part, which is searched for and lost alone.
    `overtaken` says that it has newer samples of a series: after an attempt without an answer they
    are those of the same request.
    """

    def __init__(
        self,
        reason: str = "rejected",
        samples: int | None = None,
        *,
        atomic: bool = False,
        overtaken: bool = False,
    ) -> None:
        super().__init__(reason)
        self.samples = samples
        self.atomic = atomic
        self.overtaken = overtaken


class TooLarge(Rejected):
    """The destination accepts no batch of this size; it may accept the halves (HTTP 413)."""


class Denied(Rejected):
    """
    The destination refuses the credentials or the address, not the batch (HTTP 401, 403, 404).

    The batch is tried again after a while, since credentials and addresses are put right.
    """


class Disconnected(VirtstatdError):  # noqa: N818 - a state, not a fault of the caller
    """The connection to libvirt is gone; ask again on a new one."""


class Overdue(VirtstatdError):  # noqa: N818 - a state, not a fault of the caller
    """A call to libvirt outlived its deadline and was abandoned with its lane."""


class Crowded(VirtstatdError):  # noqa: N818 - a state, not a fault of the caller
    """The maximum number of calls hangs in libvirt; make no call that could hang too."""


class Refused(VirtstatdError):  # noqa: N818 - a state, not a fault of the caller
    """Libvirt answered the call with an error and the connection lives on."""


def plain_reason(error: BaseException) -> str:
    """Return why, as a person reads it: `path: No such file or directory`, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
