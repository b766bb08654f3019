"""Faults of replies, armed until the next call that they apply to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


Kind = Literal["fail", "slow", "cut", "oversize", "vanish"]


@dataclass(slots=True)
class Fault:
    """
    Describes a fault of replies.

    It applies to calls of `procedure` (all if None), `times` times (until it is cleared if None). A
    slow reply is delayed by `seconds`, a cut one ends after `after_bytes`. Of the guests that are
    polled, those with the UUIDs in `domains` vanish, or the first `count` if that is None. `code`,
    `error_domain` and `message` are the error of a call that fails. An oversize reply is libvirt's
    refusal to send it, or with `frame` a frame that announces more than the limit.
    """

    kind: Kind
    procedure: int | None = None
    times: int | None = 1
    seconds: float = 0.0
    after_bytes: int = 0
    count: int = 0
    domains: frozenset[bytes] | None = None
    code: int = 0
    error_domain: int = 0
    message: str = ""
    frame: bool = False


class Faults:
    """The armed faults."""

    def __init__(self) -> None:
        self.armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        """Add a fault."""
        self.armed.append(fault)

    def strike(self, procedure: int) -> dict[Kind, Fault]:
        """Return the armed faults that apply, one of each kind, consuming one use of each."""
        struck: dict[Kind, Fault] = {}
        for fault in self.armed:
            if fault.procedure in (None, procedure):
                struck.setdefault(fault.kind, fault)
        for fault in struck.values():
            if fault.times is not None:
                fault.times -= 1
        self.armed = [fault for fault in self.armed if fault.times != 0]
        return struck

    def clear(self) -> None:
        """Disarm all faults."""
        self.armed.clear()
