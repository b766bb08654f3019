"""The table of findings as a document: what is compared, and from which value on it hurts."""

from __future__ import annotations

from virtstatd.insight.document import Document
from virtstatd.insight.findings import FINDINGS


def kind_documents() -> list[Document]:
    """Return each kind of finding once, for those who mark a number without waiting for one."""
    kinds = {kind.name: kind for kind in FINDINGS}
    return [
        {
            "finding": kind.name,
            "severity": kind.severity,
            "unit": kind.unit,
            "threshold": kind.threshold,
            "critical": kind.critical,
            "below": kind.below,
            "hold_seconds": kind.hold_seconds,
        }
        for kind in kinds.values()
    ]
