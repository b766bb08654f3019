"""What every test runs under: uvloop in debug mode, and no fault that goes unnoticed."""

import gc
import os
import shutil
from collections.abc import Generator, Iterator

import pytest
import uvloop
from hypothesis import HealthCheck, settings


pytest_plugins = ["support.costs", "support.limits"]
collect_ignore = ["template_sink", "template_collector"]  # projects of their own

# how long an example takes is the machine's doing
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

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


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Make a report one that pytest-xdist can send, whatever text a test has printed."""
    return sendable((yield))


def sendable(data: object) -> object:
    """Replace what UTF-8 does not have, such as half of a surrogate pair."""
    match data:
        case str():
            return data.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {key: sendable(value) for key, value in data.items()}
        case list() | tuple():
            return [sendable(each) for each in data]
    return data


@pytest.fixture(autouse=True, scope="module")
def _short_searches() -> None:
    """Leave what earlier modules left alive out of the searches for garbage; it grows all along."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_unhandled() -> Iterator[None]:
    REPORTS.clear()
    yield
    assert not REPORTS, f"the loop reported: {REPORTS}"
