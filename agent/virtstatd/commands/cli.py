"""The command line; the only place that picks an exit code."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import uvloop

from virtstatd import __version__, catalog
from virtstatd.config.file import Config, load_config
from virtstatd.config.options import noun
from virtstatd.config.options import options as options_of
from virtstatd.config.plugins import SINKS
from virtstatd.errors import ConfigError, Disconnected, StartError
from virtstatd.pipeline.promises import PROMISES
from virtstatd.runtime import logs
from virtstatd.service.notify import Notify


DEFAULT_FILE = Path("/etc/virtstatd/virtstatd.toml")
CONFIG_EXIT = 78
"""EX_CONFIG of sysexits.h: the unit does not restart on it."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

T = TypeVar("T")

config_option = click.option(
    "--config",
    "path",
    type=click.Path(readable=False, path_type=Path),  # said by who reads it
    help=f"Configuration file; without it {DEFAULT_FILE}, or the defaults where there is none.",
)


class Commands(click.Group):
    """Says in one line that what a command prints has no room; a closed pipe is click's to end."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno not in NO_ROOM or ctx.invoked_subcommand == "run":
                raise
            fail(f"cannot write: {error.strerror}", 1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
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
    from virtstatd.service.daemon import Ending, serve

    path, config = loaded(path)
    with logs.opened(config.log.level, config.log.format) as opened:
        try:
            ended = on_loop(lambda: serve(config, path, opened, Notify()))
        except StartError as error:
            opened.log.error("agent.refused", reason=str(error))  # noqa: TRY400 - one sentence
            sys.exit(1)
    if ended.why is Ending.RELOAD:
        begin_anew(ended.sockets)


@main.command()
@config_option
def check(path: Path | None) -> None:
    """Report every fault of the configuration file at once."""
    path, config = loaded(path)
    click.echo(f"{path or 'defaults'}: good; sinks:")
    for each in config.sinks:
        click.echo(f"    {each.name} ({each.delivery}): {PROMISES[each.delivery].text}")
    if config.collectors:
        names = ", ".join(f"{each.name} ({each.type})" for each in config.collectors)
        click.echo(f"collectors of other packages: {names}")


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
    """Ask every collector once and print what they bring; end with 1 where one got no answer."""
    from virtstatd.commands.once import ask_once

    path, config = loaded(path)
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

    path, config = loaded(path)
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
    help="Guests to make up.",
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
        fail(f"virtstatd demo: {error}", 1)


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Run the simulator alone, on a socket like libvirtd's."""
    from virtstatd_simulator.command import simulate as command  # its options need the simulator

    command.main(arguments, prog_name="virtstatd simulate")


@main.command()
@click.option("--format", "form", type=click.Choice(["text", "markdown"]), default="text")
def fields(form: str) -> None:
    """Print every statistic: name, kind, unit, origin."""
    click.echo(catalog.shipped().table("markdown" if form == "markdown" else "text"))


@main.command()
def sinks() -> None:
    """Print the sinks and their options."""
    for name in SINKS.names():
        try:
            sink = SINKS.find(name)
        except ConfigError as error:  # an extra that is not installed hides no other sink
            click.echo(f"{name}: {error}")
            continue
        click.echo(f"{name} ({sink.delivery}): {(sink.__doc__ or '').strip().splitlines()[0]}")
        for option in options_of(sink):
            default = "required" if option.required else f"default {option.default!r}"
            click.echo(f"    {option.name}: {noun(option.kind)}, {default}. {option.description}")


def loaded(path: Path | None) -> tuple[Path | None, Config]:
    """Read the configuration; print all of its faults and exit 78 when it has any."""
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    try:
        return path, load_config(path)
    except ConfigError as error:
        fail("\n".join(error.faults), CONFIG_EXIT)


def begin_anew(sockets: Mapping[str, int]) -> NoReturn:
    """Execute the same command in this process, handing listening sockets on, sd_listen_fds(3)."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in sockets.values()]
    for place, fd in enumerate(high):
        os.dup2(fd, 3 + place)
    os.environ |= {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(high)),
        "LISTEN_FDNAMES": ":".join(sockets),
    }
    os.execv(sys.executable, [sys.executable, "-m", "virtstatd", *sys.argv[1:]])  # noqa: S606 - ourselves


def on_loop(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(start())


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and end."""
    click.echo(message, err=True)
    sys.exit(code)
