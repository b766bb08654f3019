"""The middle: what collectors emit, on its way to the routes, as the configuration wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from virtstatd.collect.own import RowSource
from virtstatd.collect.parts import Left
from virtstatd.collector import Emit
from virtstatd.config.file import Config
from virtstatd.formats.naming import metric_name
from virtstatd.pipeline.one_source import OneSource
from virtstatd.pipeline.series_budget import SeriesBudget
from virtstatd.pipeline.sieve import Sieve, Unwanted


@dataclass(frozen=True, slots=True)
class Passing:
    """What takes every batch, the numbers of the stages behind it, and what the kernel leaves."""

    emit: Emit
    numbers: Sequence[RowSource]
    left: Left


def passing_on(config: Config, offers: Sequence[Emit], log: FilteringBoundLogger) -> Passing:
    """Return what takes every batch, and passes on what is left of it to all that it is for."""
    numbers: list[RowSource] = []
    per_guest, per_host = config.budget.series_per_guest, config.budget.series_per_host
    if per_guest or per_host:
        budget = SeriesBudget(per_guest, per_host, offers, log)
        offers = [budget]
        numbers.append(budget.numbers)
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
    source = OneSource(offers, log)
    return Passing(source, (source.numbers, *numbers), source.left)
