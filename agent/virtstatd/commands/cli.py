"""The command line; the only place that chooses an exit code."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import uvloop

from virtstatd import __version__, catalog
from virtstatd._fast import IN_C
from virtstatd.collect.bulk.options import deadlines
from virtstatd.collect.kernel.shapes import CGROUP_GROUPS, GROUPS, SUMMARY_GROUPS
from virtstatd.commands.progress import Progress
from virtstatd.config.file import DEFAULT_FILE, Config, Loaded, read_config
from virtstatd.config.kinds import KINDS
from virtstatd.config.options import Fault
from virtstatd.errors import ConfigError, Disconnected, StartError
from virtstatd.formats.naming import metric_name
from virtstatd.pipeline.picking import Globs
from virtstatd.pipeline.promises import PROMISES
from virtstatd.runtime import logs
from virtstatd.service.notify import Notify
from virtstatd.sink import Sink, Trains


if TYPE_CHECKING:
    from virtstatd.service import reload

CONFIG_EXIT = 78
"""EX_CONFIG of sysexits.h: the unit does not restart on it."""

ANSWERS_PER_SECOND = 20
"""Of a destination that takes 50 ms for each."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

KERNEL_GROUPS = GROUPS | CGROUP_GROUPS | SUMMARY_GROUPS

T = TypeVar("T")

config_option = click.option(
    "--config",
    "path",
    type=click.Path(readable=False, path_type=Path),  # reported by the code that reads it
    help=f"Configuration file; without it {DEFAULT_FILE}, or the defaults if that does not exist.",
)


LOADED_LATER = {
    **dict.fromkeys(
        ("config", "events", "fields", "help", "sinks"), "virtstatd.commands.help.command"
    ),
    "doctor": "virtstatd.commands.doctor.command",
    "status": "virtstatd.commands.status",
    "top": "virtstatd.commands.top.command",
}
"""Commands by the module that has them under their name: the service does without it."""


class Commands(click.Group):
    """Reports in one line that output cannot be written; click handles a closed pipe."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted([*super().list_commands(ctx), *LOADED_LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None if there is none of that name."""
        if module := LOADED_LATER.get(cmd_name):
            command: click.Command = getattr(importlib.import_module(module), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno not in NO_ROOM or ctx.invoked_subcommand == "run":
                raise
            fail(f"cannot write: {error.strerror}", 1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{__version__}, {'with' if IN_C else 'without'} its C library")
def main() -> None:
    """Statistics daemon of a libvirt host."""
    # the number of a standard stream that is closed would go to a socket or file of ours
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= logs.STANDARD_ERROR:
        pass
    os.close(descriptor)
    if sys.flags.optimize:
        # libvirtaio's asserts have side effects: without them handles leak
        fail(
            "python -O breaks libvirtaio; start virtstatd without -O and PYTHONOPTIMIZE",
            CONFIG_EXIT,
        )


@main.command()
@config_option
def run(path: Path | None) -> None:
    """Run the service."""
    from virtstatd.service import reload
    from virtstatd.service.daemon import serve
    from virtstatd.service.signals import Signals

    signals = Signals()
    given = reload.handed_over()
    running, faults = to_run(path, given)
    history = given.history if given else b""
    with logs.opened(running.config.log.level, running.config.log.format) as opened:
        if faults:
            opened.log.error("config.rejected", faults=faults)
        ended = None
        try:
            ended = on_loop(lambda: serve(running, opened, Notify(), signals, history))
        except StartError as error:
            if faults or given is None or given.accepted is None:
                opened.log.error("agent.refused", reason=str(error))  # noqa: TRY400 - one sentence
                sys.exit(1)
            opened.log.error("config.rejected", faults=[f"{running.name}: {error}"])  # noqa: TRY400
        if ended and not ended.accepted:
            return
        signals.close()
        if signals.ending:  # it came after the last check for it
            opened.log.info("agent.stopped", ending=reload.Ending.STOPPED.value)
            return
    try:
        if ended and ended.accepted:
            reload.begin_anew(running, ended.accepted, ended.sockets, ended.history)
        elif given:
            reload.restore(given)
    except OSError as error:
        fail(f"cannot execute {sys.executable}: {error.strerror}", 1)


def to_run(path: Path | None, given: reload.HandedOver | None) -> tuple[Loaded, list[str]]:
    """Return the configuration to run, and the faults of the one that it runs in place of."""
    if given is None:
        return loaded(path), []
    faults: list[str] = []
    try:
        if given.accepted:
            return given.accepted.loaded(), []
    except ConfigError as error:  # a library that it needs was removed meanwhile
        faults = error.faults
    try:
        return given.former.loaded(), faults
    except ConfigError as error:
        fail("\n".join([*faults, *error.faults]), 1)


@main.command()
@config_option
@click.argument("file", required=False, type=click.Path(readable=False, path_type=Path))
def check(path: Path | None, file: Path | None) -> None:
    """
    Report every error of a configuration FILE. Also what cannot work here is reported.

    Ports, secrets, certificates and directories are checked as the user who runs this; nothing is
    changed.
    """
    from virtstatd.commands.spools import described
    from virtstatd.service.here import found_here, is_virtstatd
    from virtstatd.service.sending import orphaned_spools

    if path and file:
        raise click.UsageError("name the file once")
    read = loaded(path or file)
    ours = partial(is_virtstatd, web=read.config.web)
    found = on_loop(lambda: found_here(read.config, ours, outside=True))
    if found.faults:
        fail("\n".join(read.located(found.faults)), CONFIG_EXIT)
    click.echo(f"{read.name}: good; sinks:")
    for each in read.config.sinks:
        click.echo(f"    {each.name} ({each.delivery}): {PROMISES[each.delivery].text}")
        if each.delivery in ("memory", "spool"):
            click.echo(f"        {ceiling(each.sink)}")
    if read.config.collectors:
        names = ", ".join(f"{each.name} ({each.type})" for each in read.config.collectors)
        click.echo(f"collectors of other packages: {names}")
    for kind in KINDS:
        if note := kind.note(read.config.collect.get(kind.table)):
            click.echo(f"{kind.name}: {note}")
    asked = read.config.hypervisor.deadline_seconds
    limits = deadlines(read.config.collect["poll"], asked).items()
    shown = ", ".join(f"{name} {seconds:g} s" for name, seconds in limits)
    click.echo(f"calls are abandoned after deadline_seconds = {asked:g}, half an interval at most:")
    click.echo(f"    {shown}")
    for note in read.located([*found.notes, *unmatched(read.config), *filtered(read.config)]):
        click.echo(f"note: {note}")
    for orphan in orphaned_spools(read.config):
        text = (
            f"note: spool {orphan.directory}: {described(orphan)}, for no sink that is configured"
        )
        click.echo(f"{text}; see `virtstatd spool`")


def filtered(config: Config) -> Iterable[Fault]:
    """Say how many guests are monitored here; return the rules that match no guest."""
    from virtstatd.commands.filtered import filtered_here

    with logs.opened("error", config.log.format) as opened:
        found = on_loop(lambda: filtered_here(config, opened.log))
    if found is None:
        return ()
    click.echo(found.text)
    return found.notes


def unmatched(config: Config) -> Iterator[Fault]:
    """Yield the patterns of sinks and of the filter that match nothing of the catalog."""
    lines = catalog.shipped().fields
    names = {metric_name(line.field) for line in lines if line.field}
    groups = KERNEL_GROUPS.union(line.group for line in lines)
    asked: list[tuple[tuple[str | int, ...], Iterable[str], Collection[str]]] = [
        (("sink", sink.index, option), getattr(sink.route, option), known)
        for sink in config.sinks
        for option, known in (("keep", names), ("drop", names), ("groups", groups))
    ]
    asked += [
        (("filter", option), getattr(config.filter, option), names)
        for option in ("include_fields", "exclude_fields")
    ]
    for path, patterns, among in asked:
        for at, pattern in enumerate(patterns):
            if not any(map(Globs([pattern]), among)):
                yield Fault((*path, at), "matches nothing of `virtstatd fields`")


@main.command()
@config_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["prometheus", "jsonl"]),
    default="prometheus",
    show_default=True,
    help="What to print.",
)
def once(path: Path | None, form: str) -> None:
    """Run every collector once and print the numbers. Exits with 1 if one got no answer."""
    from virtstatd.commands.once import ask_once

    config = loaded(path).config
    with logs.opened("warning", config.log.format) as opened:
        try:
            with open(1, "wb", closefd=False) as out:
                failed = on_loop(lambda: ask_once(config, form, out, opened.log))
        except StartError as error:
            fail(str(error), 1)
    if failed:
        fail("\n".join(f"{', '.join(who)}: {reason}" for reason, who in failed.items()), 1)


@main.command()
@config_option
def partitions(path: Path | None) -> None:
    """Print what each partition uses, and its limits."""
    from virtstatd.commands.partitions import partition_tree

    config = loaded(path).config
    with logs.opened("warning", config.log.format) as opened:
        try:
            click.echo(on_loop(lambda: partition_tree(config, opened.log)), nl=False)
        except Disconnected as error:
            fail(f"libvirt cannot be reached: {error}", 1)
        except StartError as error:
            fail(str(error), 1)


def address(_: click.Context, __: click.Parameter, value: str) -> str:
    """Check an address on the command line."""
    from virtstatd.sending.address import split_address

    try:
        split_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


@main.command()
@click.option(
    "--domains",
    type=click.IntRange(0, 100_000),
    default=50,
    show_default=True,
    help="Number of simulated guests.",
)
@click.option(
    "--listen-address",
    default="127.0.0.1:9766",
    show_default=True,
    callback=address,
    help="Address and port of the page.",
)
def demo(domains: int, listen_address: str) -> None:
    """Run the agent on simulated guests, without a hypervisor."""
    from virtstatd.commands.demo import demonstrate

    try:
        demonstrate(domains, listen_address)
    except StartError as error:
        # the demo has no file, and one address
        reason = str(error).removeprefix("sink[0].listen_address: ")
        fail(f"virtstatd demo: {reason}", 1)


@main.command()
def password() -> None:
    """Print the hash of a password, for `users` in `[web]`."""
    from virtstatd.serving.passwords import made

    click.echo(made(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)))


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Run the simulator alone, on a socket like libvirtd's."""
    from virtstatd_simulator.command import simulate as command  # its options need the simulator

    command.main(arguments, prog_name="virtstatd simulate")


@main.group()
def spool() -> None:
    """List, send or remove what waits on disk for sinks."""


@spool.command(name="list")
@config_option
def list_spools(path: Path | None) -> None:
    """Print what waits in each spool, and which no sink will send."""
    from virtstatd.commands.spools import listed

    try:
        lines = [*listed(loaded(path).config)]
    except StartError as error:
        fail(str(error), 1)
    click.echo("\n".join(lines) or "no sink has a spool on disk", err=not lines)


@spool.command()
@config_option
@click.argument("name")
def remove(path: Path | None, name: str) -> None:
    """Remove the spool NAME, and all that waits in it."""
    from virtstatd.commands.spools import removed

    config = loaded(path).config
    try:
        click.echo(f"removed {name}: {removed(config, name)}")
    except StartError as error:
        fail(str(error), 1)


@spool.command()
@config_option
@click.argument("name")
@click.option("--to", default="", help="Sink that sends it; without it, the one of that name.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="Time after which what is left stays on disk.",
)
def drain(path: Path | None, name: str, to: str, seconds: float) -> None:
    """Send what waits in the spool NAME; end with 1 where some is left."""
    from virtstatd.commands.spools import drained

    config = loaded(path).config
    with logs.opened("warning", config.log.format) as opened:
        try:
            progress = Progress()
            outlet = on_loop(
                lambda: drained(config, name, to or name, seconds, opened.log, progress)
            )
        except StartError as error:
            fail(str(error), 1)
    lost = sum(each.samples for each in (*outlet.lost.values(), *outlet.dropped.values()))
    sent, left = outlet.delivered, outlet.waiting
    click.echo(f"{sent.batches} batches of {sent.samples} samples sent, {lost} samples lost")
    if left.batches:
        fail(f"{left.batches} batches are left", 1)


def ceiling(sink: Sink) -> str:
    """Say what a sink carries at most where each answer takes 50 ms."""
    trains: Trains | None = getattr(sink, "trains", None)
    if trains is None:
        return f"at 50 ms an answer it carries {ANSWERS_PER_SECOND} batches a second, one at a time"
    samples = ANSWERS_PER_SECOND * trains.samples * trains.lanes
    return f"at 50 ms an answer it carries {samples} samples a second at most"


def loaded(path: Path | None) -> Loaded:
    """Read the configuration; print all of its faults and exit 78 when it has any."""
    try:
        return read_config(path)
    except ConfigError as error:
        fail("\n".join(error.faults), CONFIG_EXIT)


def on_loop(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(start())


def fail(message: str, code: int) -> NoReturn:
    """Print the error and exit."""
    click.echo(message, err=True)
    sys.exit(code)
