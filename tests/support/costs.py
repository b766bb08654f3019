"""A pytest plugin: `--costs=10` shows the ten tests that took most CPU time, and all of it."""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Generator
from operator import itemgetter

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--costs", type=int, default=0, help="show the N costliest tests, in CPU time")


def pytest_configure(config: pytest.Config) -> None:
    """Measure where somebody asks for it."""
    if wanted := config.getoption("costs"):
        config.pluginmanager.register(Costs(wanted), "costs")


def spent() -> float:
    """Return the CPU time of this process and of all that it has started and waited for."""
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Costs:
    """
    What each test costs.

    A process counts where it is waited for: what a lab costs is with the last test that uses it.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure a test with all that is set up and taken down for it."""
        before = spent()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = spent() - before

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the costliest, and what all cost by folder."""
        folders: dict[str, float] = defaultdict(float)
        for name, seconds in self._seconds.items():
            folders["/".join(name.split("/")[:2])] += seconds
        show = terminalreporter.write_line
        terminalreporter.section(f"the {self._wanted} costliest tests, CPU seconds")
        for name, seconds in sorted(self._seconds.items(), key=itemgetter(1), reverse=True)[
            : self._wanted
        ]:
            show(f"{seconds:8.1f} {name}")
        show(f"{spent():8.1f} all: " + ", ".join(f"{k} {v:.0f}" for k, v in folders.items()))
