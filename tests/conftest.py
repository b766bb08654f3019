"""What every test runs under: uvloop in debug mode, and no fault that goes unnoticed."""

import os
import shutil
from collections.abc import Iterator

import pytest
import uvloop


pytest_plugins = ["support.costs", "support.limits"]
collect_ignore = ["template_sink", "template_collector"]  # projects of their own

REPORTS: list[str] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail where a program is missing: a test that is skipped for ever is none."""
    for mark in item.iter_markers("needs"):
        if missing := list(filter(is_missing, mark.args)):
            pytest.fail(f"{', '.join(missing)} is missing; make test has it", pytrace=False)


def is_missing(program: str) -> bool:
    """Tell whether a program is not installed; root is no program, and needed like one."""
    return os.geteuid() != 0 if program == "root" else not shutil.which(program)


def new_loop():
    """Make a loop whose reports of unhandled faults fail the test they come from."""
    loop = uvloop.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.25
    loop.set_exception_handler(
        lambda _, context: REPORTS.append(f"{context['message']}: {context.get('exception')!r}")
    )
    return loop


def pytest_asyncio_loop_factories():
    """Run everything that is asynchronous on uvloop, as in production."""
    return {"uvloop": new_loop}


@pytest.fixture(autouse=True)
def _nothing_unhandled() -> Iterator[None]:
    REPORTS.clear()
    yield
    assert not REPORTS, f"the loop reported: {REPORTS}"
