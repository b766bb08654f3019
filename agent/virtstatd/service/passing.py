"""The middle: what collectors emit, on its way to the routes, as the configuration wants it."""

from __future__ import annotations

from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from virtstatd.collector import Emit
from virtstatd.config.file import Config
from virtstatd.formats.naming import metric_name
from virtstatd.pipeline.one_source import OneSource
from virtstatd.pipeline.sieve import Sieve, Unwanted


def passing_on(config: Config, offers: Sequence[Emit], log: FilteringBoundLogger) -> OneSource:
    """Return what takes every batch, and passes on what is left of it to all that it is for."""
    options = config.filter
    unwanted = Unwanted(
        include_disks=options.include_disks,
        exclude_disks=options.exclude_disks,
        include_nics=options.include_nics,
        exclude_nics=options.exclude_nics,
        include_fields=options.include_fields,
        exclude_fields=options.exclude_fields,
    )
    if not unwanted.nothing:
        offers = [Sieve(unwanted, metric_name, offers)]
    return OneSource(offers, log)
