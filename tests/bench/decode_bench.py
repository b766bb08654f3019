"""
What decoding costs: 302 paused guests of 269 statistics each, as libvirt 9 reports them.

Run with `PYTHONPATH=agent python tests/bench/decode_bench.py`; prints the CPU time of a poll in
milliseconds, and that of the first one, which compiles.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from virtstatd.catalog import load
from virtstatd.catalog.decode import Decoder
from virtstatd.model import Domain


GUESTS = 302
POLLS = 30
RECORD = Path(__file__).parents[1] / "golden" / "records" / "kvm_paused.json"


def grown() -> str:
    """Return the real record with four vCPUs and two interfaces, as JSON."""
    record = json.loads(RECORD.read_text())
    for key, value in list(record.items()):
        if key.startswith(("vcpu.0.", "vcpu.1.")):
            group, index, rest = key.split(".", 2)
            record[f"{group}.{int(index) + 2}.{rest}"] = value
        if key.startswith("net.1."):
            record[f"net.2.{key.removeprefix('net.1.')}"] = value
    return json.dumps(record)


def poll(text: str, count: int) -> list[dict[str, Any]]:
    """Return records with strings and numbers of their own, as the binding makes them."""
    records = []
    for guest in range(GUESTS):
        record = json.loads(text)  # a call each: json shares equal keys within one
        record["net.1.name"] = f"vnet{guest}"
        record["net.2.name"] = f"vnet{guest + GUESTS}"
        record["block.0.path"] = f"/var/lib/libvirt/images/{guest}.qcow2"
        for key in record:
            if key.endswith(("time", "delay", "bytes", "exits.sum")):
                record[key] += 10**12 + count
        records.append(record)
    return records


def main() -> None:
    """Print the first poll's and the median poll's CPU time."""
    text = grown()
    domains = [
        Domain(f"uuid-{i}", f"guest-{i}", i, (("domain", f"guest-{i}"),)) for i in range(GUESTS)
    ]
    decoder = Decoder(load(), on_unknown=print)
    spent = []
    for count in range(POLLS):
        records = poll(text, count)
        start = time.process_time()
        decoded = [
            decoder.readings(domain, record)
            for domain, record in zip(domains, records, strict=True)
        ]
        spent.append((time.process_time() - start) * 1e3)
    values = sum(map(len, records))
    readings = sum(map(len, decoded))
    sys.stdout.write(
        f"{GUESTS} records, {values} values, {readings} readings\n"
        f"first poll {spent[0]:.1f} ms, then median {median(spent[1:]):.2f} ms, "
        f"best {min(spent[1:]):.2f} ms of CPU\n"
    )


if __name__ == "__main__":
    main()
