"""
Captures the golden records of a Debian's libvirt from real guests of type kvm.

By hand, as root: `PYTHONPATH=tests .venv/bin/python -m matrix.support.capture trixie sid`.

It writes `libvirt_VERSION_kvm_running` and `…_paused` to `tests/golden/`, each a record and the
readings that the agent makes of it. Review them by the difference that git shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from uuid import UUID

import libvirt

from lab.support.machine import LabError, wait_until
from matrix.support.generation import ROOTS, Generation
from support.roots import RootError
from unit.catalog.test_decode import GOLDEN, fresh, shown


def capture(lab: Generation, name: str, guest: str) -> None:
    """Write what libvirt says of a guest, and the readings that the agent makes of it."""
    connection = libvirt.openReadOnly(lab.uri_readonly)
    try:
        domain = connection.lookupByUUIDString(lab.uuid(guest))
        ((_, record),) = connection.domainListGetStats([domain])
    finally:
        connection.close()
    # where the guest's images are from inside
    text = json.dumps(record, indent=1).replace(f"{lab.directory}/lib", "/var/lib/libvirt")
    (GOLDEN / "records" / f"{name}.json").write_text(f"{text}\n")
    lines = shown(fresh(json.loads(text)))
    (GOLDEN / "readings" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    sys.stdout.write(f"{name}: {len(record)} statistics, {len(lines)} readings\n")


def main() -> None:
    """Capture the records of the suites that are named."""
    parser = argparse.ArgumentParser(prog="python -m matrix.support.capture", description=__doc__)
    parser.add_argument("suites", nargs="+", choices=ROOTS)
    for suite in parser.parse_args().suites:
        with Generation(suite) as lab:
            if not lab.kvm:
                raise LabError("the golden records are those of kvm guests: /dev/kvm is missing")
            version = ".".join(map(str, lab.version[:2]))
            parts = {"vcpus": 2, "memory_mib": 32}
            lab.create(lab.definition("running", uuid=str(UUID(int=1)), **parts), paused=False)
            lab.create(lab.definition("paused", uuid=str(UUID(int=2)), **parts))
            lab.count_events("paused")
            wait_until(lambda: lab.stats("running")["block.0.rd.reqs"] != "0", "the firmware")
            capture(lab, f"libvirt_{version}_kvm_running", "running")
            capture(lab, f"libvirt_{version}_kvm_paused", "paused")


if __name__ == "__main__":
    try:
        main()
    except (LabError, RootError) as error:
        sys.exit(str(error))
