"""Texts that no log may show, in every form in which a server could send them back."""

from __future__ import annotations

import html
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote, quote_plus


HIDDEN = "(secret)"

SHORT = 8
"""Characters from which a text that may be a secret is hidden, such as a header's value."""


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets: as they are, quoted, percent-encoded, in base64."""
    for form in sorted({form for each in secrets for form in _forms(each)}, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


@lru_cache(maxsize=64)
def _forms(secret: str) -> frozenset[str]:
    raw = secret.encode()
    encoded = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    encoded |= {_lower(each) for each in encoded}
    forms = {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret)[1:-1].replace("/", "\\/"),
        html.escape(secret),
        *encoded,
        *(encode(raw).decode().rstrip("=") for encode in (b64encode, urlsafe_b64encode)),
    }
    return frozenset(forms - {""})


def _lower(text: str) -> str:
    """Return a percent-encoded text with the digits that some write small."""
    first, *rest = text.split("%")
    return "%".join([first, *(each[:2].lower() + each[2:] for each in rest)])
