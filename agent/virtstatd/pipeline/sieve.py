"""Leaves out disks, interfaces and fields that are not wanted, before anything else sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from virtstatd.collector import Emit
from virtstatd.model import Batch, Reading, Series
from virtstatd.pipeline.picking import Globs, NameOf, Picker, fields_wanted


_DISKS: Final = "libvirt_domain_block"
_NICS: Final = "libvirt_domain_interface"
_OWN: Final = "virtstatd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwanted:
    """
    Patterns of disks and interfaces by target (`vda`, `vnet0`), and of metrics as on the page.

    What is excluded wins; no pattern for what is included includes all.
    """

    include_disks: Sequence[str] = ()
    exclude_disks: Sequence[str] = ()
    include_nics: Sequence[str] = ()
    exclude_nics: Sequence[str] = ()
    include_fields: Sequence[str] = ()
    exclude_fields: Sequence[str] = ()

    @property
    def nothing(self) -> bool:
        """Whether everything is wanted."""
        return self == Unwanted()


class Sieve:
    """Pass batches on without the series of what is left out; the agent's own are kept."""

    def __init__(self, unwanted: Unwanted, name_of: NameOf, offers: Sequence[Emit]) -> None:
        self._offers = offers
        self._fields = fields_wanted(unwanted.include_fields, unwanted.exclude_fields, name_of)
        self._devices = tuple(
            (prefix, Globs(include), Globs(exclude, otherwise=False))
            for prefix, include, exclude in (
                (_DISKS, unwanted.include_disks, unwanted.exclude_disks),
                (_NICS, unwanted.include_nics, unwanted.exclude_nics),
            )
        )
        self._picker = Picker(self._wanted)

    def __call__(self, batch: Batch) -> None:
        """Pass on what is left of a batch, which may be nothing but the groups that were polled."""
        left = replace(batch, readings=tuple(self._picked(batch.readings)))
        for offer in self._offers:
            offer(left)

    def _picked(self, readings: Sequence[Reading]) -> Iterator[Reading]:
        for reading in readings:
            if (picked := self._picker(reading.shape)) is None:
                continue
            shape, pick = picked
            yield Reading(reading.domain, shape, pick(reading.values)) if pick else reading

    def _wanted(self, series: Series) -> bool:
        field = series.field
        if field.prefix == _OWN:
            return True
        if not self._fields(series):
            return False
        target = next((text for name, text in series.labels if name == "target_device"), None)
        return target is None or all(
            include(target) and not exclude(target)
            for prefix, include, exclude in self._devices
            if field.prefix.startswith(prefix)
        )
