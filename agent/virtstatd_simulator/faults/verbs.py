"""
The verbs of the control protocol as data: their arguments with type, range, default and meaning.

The same table checks commands and writes the help of `virtstatd simulate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from virtstatd_simulator.answers.table import NUMBERS
from virtstatd_simulator.guests.events import WIRE
from virtstatd_simulator.guests.fields import GROUP_NAMES, is_integer
from virtstatd_simulator.guests.flavors import MAX_GUESTS
from virtstatd_simulator.guests.limits import LIMITS
from virtstatd_simulator.wire.rpc import MAX_MESSAGE


class CommandError(ValueError):
    """Reports in one sentence the error of a command."""


class Type(Enum):
    """Lists the types of arguments, by the words of the help and of errors."""

    INTEGER = "an integer"
    NUMBER = "a number"
    TEXT = "a text"
    SWITCH = "true or false"
    NAMES = "a list of names of guests"
    LIST = "a list"
    OBJECT = "an object"
    GROUPS = "a list of groups of statistics, named as virsh domstats has them,"
    PROCEDURE = "the name of a procedure, as status counts them,"


_CLASSES = {Type.TEXT: str, Type.SWITCH: bool, Type.LIST: list, Type.OBJECT: dict}


@dataclass(frozen=True, slots=True)
class Required:
    """Marks an argument without a default."""


REQUIRED: Final = Required()


@dataclass(frozen=True, slots=True)
class Parameter:
    """
    Describes an argument of a verb.

    `null` is the meaning of null, if it is allowed; `without` explains the default, if the value
    alone does not.
    """

    name: str
    type: Type
    help: str
    default: object = REQUIRED
    low: float = 0
    high: float = 0
    null: str = ""
    without: str = ""

    @property
    def noun(self) -> str:
        """Name the values that are allowed."""
        noun = self.type.value
        if self.type in (Type.INTEGER, Type.NUMBER):
            noun += f" from {self.low:.15g} to {self.high:.15g}"
        return f"{noun} or null {self.null}" if self.null else noun

    def check(self, value: object) -> None:
        """Check a value; raises `CommandError`."""
        if not (value is None and self.null) and not self._fits(value):
            raise CommandError(f"{self.name} must be {self.noun}, not {shown(value)}")

    def _fits(self, value: object) -> bool:
        if self.type is Type.INTEGER:
            return is_integer(value, int(self.low), int(self.high))
        if self.type is Type.NUMBER:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and self.low <= value <= self.high  # type: ignore[operator]
        if self.type is Type.PROCEDURE:
            return isinstance(value, str) and value.upper() in NUMBERS
        if self.type is Type.NAMES:
            return isinstance(value, list) and all(isinstance(name, str) for name in value)
        if self.type is Type.GROUPS:
            names = value if isinstance(value, list) else [None]
            return all(isinstance(name, str) and name in GROUP_NAMES for name in names)
        return isinstance(value, _CLASSES[self.type])

    def described(self) -> str:
        """Describe it for the help."""
        if isinstance(self.default, Required):
            default = "required"
        else:
            default = f"default {self.without or json.dumps(self.default)}"
        return f"{self.help}: {self.noun}; {default}."


@dataclass(frozen=True, slots=True)
class Verb:
    """Describes a command and its arguments."""

    name: str
    help: str
    parameters: tuple[Parameter, ...] = ()

    def checked(self, arguments: Mapping[str, object]) -> dict[str, object]:
        """Return all arguments, omitted ones with their defaults; raises `CommandError`."""
        known = {each.name: each for each in self.parameters}
        for name in arguments:
            if name not in known:
                those = f"its arguments are {', '.join(known)}" if known else "it has none"
                raise CommandError(f"{shown(name)} is no argument of {self.name}; {those}")
        for name, parameter in known.items():
            if name in arguments:
                parameter.check(arguments[name])
            elif isinstance(parameter.default, Required):
                raise CommandError(f"{self.name} needs {name}: {parameter.noun}")
        return {each.name: arguments.get(each.name, each.default) for each in self.parameters}


def shown(value: object) -> str:
    """Show a value of a command in an error, shortened."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


MAX_SHOWN = 40
MAX_STARTED = 10_000
MAX_CHURN = 10_000
MAX_FALSE = 10**14
DAY_SECONDS = 86400

_DOMAINS = Parameter("domains", Type.NAMES, "which guests", None, without="the first active ones")
_COUNT = Parameter("count", Type.INTEGER, "how many guests, without domains", 1, 1, MAX_GUESTS)
_PROCEDURE = Parameter(
    "procedure", Type.PROCEDURE, "which calls fail", None, null="for every procedure"
)
_TIMES = Parameter(
    "times", Type.INTEGER, "how many calls fail", 1, 1, 1_000_000, null="for all until clear"
)
_GROUPS = Parameter("groups", Type.GROUPS, ", ".join(GROUP_NAMES), None, null="for all")
_EVENTS = ", ".join(map(str, WIRE))


def _verb(name: str, text: str, *parameters: Parameter) -> Verb:
    return Verb(name, text, parameters)


_VERBS = (
    _verb("status", "Report guests, clients, workers, calls by procedure and armed faults."),
    # guests
    _verb("hang", "Stop the monitors of guests, as a QEMU that is stopped.", _DOMAINS, _COUNT),
    _verb(
        "hold",
        "Take the jobs of guests, as a call of another program does.",
        _DOMAINS,
        _COUNT,
        Parameter("seconds", Type.NUMBER, "for how long", 0.2, high=DAY_SECONDS),
    ),
    _verb(
        "lag",
        "Have monitors answer late; who asks holds the guest's job meanwhile.",
        _DOMAINS,
        _COUNT,
        Parameter("seconds", Type.NUMBER, "how late", 0.05, high=DAY_SECONDS),
    ),
    _verb(
        "release",
        "Let monitors answer again, at once, and end what holds their guests' jobs.",
        replace(_DOMAINS, without="all that hang, lag or are held"),
    ),
    _verb(
        "start",
        "Start guests.",
        replace(_DOMAINS, help="which guests that are shut off", without="new ones"),
        replace(_COUNT, help="how many new guests", high=MAX_STARTED),
    ),
    _verb("destroy", "End guests.", _DOMAINS, _COUNT),
    _verb("suspend", "Pause guests.", _DOMAINS, _COUNT),
    _verb("resume", "Continue guests that are paused.", _DOMAINS, _COUNT),
    _verb(
        "churn",
        "End the oldest guest and start a new one, again and again.",
        Parameter("per_second", Type.NUMBER, "guests per second, 0 stops", high=MAX_CHURN),
    ),
    _verb(
        "metadata",
        "Set or remove a metadata element.",
        _DOMAINS,
        _COUNT,
        Parameter("uri", Type.TEXT, "its name space"),
        Parameter("element", Type.TEXT, "its XML", None, null="to remove it"),
    ),
    _verb(
        "tune",
        "Set limits.",
        _DOMAINS,
        _COUNT,
        Parameter("limits", Type.OBJECT, f"values of {', '.join(LIMITS)}"),
    ),
    _verb(
        "event",
        "Send an event of guests, which themselves do not change.",
        _DOMAINS,
        _COUNT,
        Parameter("id", Type.INTEGER, f"virDomainEventID, one of {_EVENTS}", high=max(WIRE)),
        Parameter("arguments", Type.LIST, "what callbacks get after the domain", ()),
        Parameter("times", Type.INTEGER, "how often each", 1, high=100_000),
    ),
    _verb("stop_time", "Stop the guests' time: every poll gives the same numbers."),
    _verb("start_time", "Continue the guests' time."),
    # the daemon
    _verb("freeze", "Stop the daemon: it reads, answers and writes nothing."),
    _verb("thaw", "Continue the daemon."),
    _verb(
        "restart",
        "Close all connections and open the socket again; guests live on.",
        Parameter("down_seconds", Type.NUMBER, "seconds without it", 0.0, high=DAY_SECONDS),
    ),
    # replies
    _verb(
        "fail",
        "Answer calls with an error.",
        _PROCEDURE,
        _TIMES,
        Parameter("code", Type.INTEGER, "virErrorNumber", 38, 1, 999),
        Parameter("error_domain", Type.INTEGER, "virErrorDomain", 10, 0, 999),
        Parameter("message", Type.TEXT, "its text", "simulated failure"),
    ),
    _verb(
        "slow",
        "Delay answers.",
        _PROCEDURE,
        _TIMES,
        Parameter("seconds", Type.NUMBER, "seconds of delay", 1.0, high=DAY_SECONDS),
    ),
    _verb(
        "cut",
        "Hang up in the middle of an answer.",
        _PROCEDURE,
        _TIMES,
        Parameter("after_bytes", Type.INTEGER, "bytes that are sent", 100, high=MAX_MESSAGE),
    ),
    _verb(
        "oversize",
        "Refuse answers as too large.",
        _PROCEDURE,
        _TIMES,
        Parameter("frame", Type.SWITCH, "announce too large a frame and hang up instead", False),
    ),
    _verb(
        "vanish",
        "Let guests end between a call for statistics and its answer.",
        _TIMES,
        replace(_DOMAINS, without="the first of a call"),
        replace(_COUNT, help="how many of the guests asked for, without domains"),
    ),
    # statistics
    _verb(
        "refuse",
        "Answer calls for statistics with an error where they ask certain guests for a group.",
        _DOMAINS,
        _COUNT,
        replace(_GROUPS, help=f"which groups: {_GROUPS.help}"),
        _TIMES,
        Parameter("too_large", Type.SWITCH, "the answer does not fit into a message", False),
    ),
    _verb(
        "spoil",
        "Put a value into the records of guests that it cannot have.",
        _DOMAINS,
        _COUNT,
        Parameter("key", Type.TEXT, "which statistic", None, null="for one of each group"),
        replace(_GROUPS, help="which groups, without key"),
        Parameter("value", Type.INTEGER, "the value", None, -MAX_FALSE, MAX_FALSE, null="for NaN"),
    ),
    _verb(
        "clear",
        "Disarm the faults of replies and statistics: fail, slow, cut, oversize, vanish, refuse,"
        " spoil.",
    ),
)
VERBS: dict[str, Verb] = {verb.name: verb for verb in _VERBS}


def check_command(command: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Return the verb of a command and all its arguments; raises `CommandError`."""
    name = command.get("do")
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        said = "do is missing" if "do" not in command else f"do must be a verb, not {shown(name)}"
        raise CommandError(f"{said}; verbs are {', '.join(VERBS)}")
    return verb.name, verb.checked({key: value for key, value in command.items() if key != "do"})


def rows() -> Iterator[tuple[str, str]]:
    """List verbs and, indented below each, its arguments, with their descriptions."""
    first: dict[Parameter, str] = {}
    for verb in VERBS.values():
        yield verb.name, verb.help
        for parameter in verb.parameters:
            before = first.setdefault(parameter, verb.name)
            same = before != verb.name
            yield f"  {parameter.name}", f"as for {before}." if same else parameter.described()
