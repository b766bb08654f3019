"""Makes the lab's fixtures known to the tests of this directory."""

from lab.support.fixtures import (
    lab,
    many,
    many_for_long,
    private_lab,
    pytest_collection_modifyitems,
    pytest_runtest_setup,
    traces,
)


__all__ = [
    "lab",
    "many",
    "many_for_long",
    "private_lab",
    "pytest_collection_modifyitems",
    "pytest_runtest_setup",
    "traces",
]
