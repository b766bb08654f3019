"""What goes wrong with replies: faults that wait for the next call they fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


Kind = Literal["fail", "slow", "cut", "oversize", "vanish"]


@dataclass(slots=True)
class Fault:
    """
    A fault of replies.

    It strikes calls of `procedure` (every one when None), `times` times (for ever when None).
    `seconds` delay a slow reply, after `after_bytes` a cut one ends, `count` guests vanish, and
    `code`, `domain` and `message` are the error of a failed call. An oversize reply is libvirt's
    refusal to send it, or with `frame` a frame that announces more than the limit.
    """

    kind: Kind
    procedure: int | None = None
    times: int | None = 1
    seconds: float = 1.0
    after_bytes: int = 100
    count: int = 1
    code: int = 38
    domain: int = 10
    message: str = "simulated failure"
    frame: bool = False


class Faults:
    """The faults that are armed."""

    def __init__(self) -> None:
        self.armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        """Add a fault."""
        self.armed.append(fault)

    def strike(self, procedure: int) -> list[Fault]:
        """Give the faults that this call meets and count them down; one of a kind at a time."""
        struck: dict[Kind, Fault] = {}
        for fault in self.armed:
            if fault.procedure in (None, procedure) and fault.kind not in struck:
                struck[fault.kind] = fault
        for fault in struck.values():
            if fault.times is not None:
                fault.times -= 1
        self.armed = [f for f in self.armed if f.times is None or f.times > 0]
        return list(struck.values())

    def clear(self) -> None:
        """Disarm everything."""
        self.armed.clear()
