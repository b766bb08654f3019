"""The rules of the table `[filter]`, checked beyond their form."""

from __future__ import annotations

from collections.abc import Iterator

from virtstatd.config.options import Fault
from virtstatd.config.plugged import TomlTable
from virtstatd.config.toml_lines import Path
from virtstatd.hypervisor.filter import bounded_regex


def rule_faults(table: TomlTable) -> Iterator[Fault]:
    """Yield rules that name nothing, and regular expressions that are none or could be slow."""
    for option in ("include", "exclude"):
        rules = table.get(option)
        for at, rule in enumerate(rules if isinstance(rules, list) else ()):
            if not isinstance(rule, dict):
                continue  # a fault of its form
            path: Path = ("filter", option, at)
            if not any(rule.values()):
                yield Fault(path, "must name a name, uuid, regex, partition or labels")
            regex = rule.get("regex")
            if isinstance(regex, str):
                try:
                    bounded_regex(regex)
                except ValueError as error:
                    yield Fault((*path, "regex"), str(error))
