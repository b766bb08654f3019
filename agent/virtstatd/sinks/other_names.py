"""The options of the Prometheus sinks that use the names of another tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta

from virtstatd.catalog.names import dialect
from virtstatd.catalog.names.translator import Translator
from virtstatd.formats.naming import metric_name
from virtstatd.sink import Batch


PATIENCE_SECONDS: Final = 60.0
"""So long a page waits for the description of a new guest, where that gives labels."""


@dataclass(frozen=True, kw_only=True)
class OtherNames:
    """Whose names metrics get."""

    names: Annotated[
        Literal["virtstatd", "inovex", "tinkoff", "kumina", "ceilometer"],
        Meta(
            description="Tool whose names, labels and units are used;"
            " `virtstatd fields --names inovex` lists those of inovex."
        ),
    ] = "virtstatd"
    own_names: Annotated[
        bool,
        Meta(description="Also send what the other tool does not have, under virtstatd's names."),
    ] = True

    def translating(self, patience: float = 0.0) -> Callable[[Batch], Batch]:
        """Return what turns a batch into these names; `patience` is explained at `Translator`."""
        if self.names == "virtstatd":
            return _same
        return Translator(dialect(self.names), metric_name, rest=self.own_names, patience=patience)


def _same(batch: Batch) -> Batch:
    return batch
