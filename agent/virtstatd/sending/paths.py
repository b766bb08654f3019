"""What options that name a file mean: a path, or a credential that systemd hands over."""

from __future__ import annotations

import os
import re
from pathlib import Path

from virtstatd.errors import StartError


CREDENTIAL = "credential:"

FILE = f"a path, or `{CREDENTIAL}` and the name of a systemd credential"
"""The end of the description of every option that names a file."""

_NAME = re.compile(r"[A-Za-z0-9_.@-]+")


def path_of(name: str) -> Path:
    """Return the path that an option means; raise StartError when systemd passed no credential."""
    if not name.startswith(CREDENTIAL):
        return Path(name)
    credential = name.removeprefix(CREDENTIAL)
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory or not _NAME.fullmatch(credential) or credential in (".", ".."):
        raise StartError(f"there is no {name}; add LoadCredential= for it to the unit")
    return Path(directory) / credential
