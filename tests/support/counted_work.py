"""
Fixed work that is counted: decoding, the page, and what each encoder does.

As a program (`python -m support.counted_work`) it does for each line of input the part that is
named there, once, and answers with a line, so that its instructions can be counted from outside.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from functools import partial

import structlog

from bench.decode_bench import grown
from bench.encoders_bench import rows
from virtstatd.catalog import shipped
from virtstatd.catalog.decode import Decoder
from virtstatd.model import Batch, Domain
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages


GUESTS = 25
YARDSTICK = "yardstick"
ROUNDS = 3


class Work:
    """
    The parts, each done some times, so that everything is compiled.

    `poll` decodes the records of 25 guests and takes them over for the page, `page` renders it, and
    the other parts encode the same batch. The yardstick reads the records' JSON with the standard
    library: the other parts are counted in units of it, since interpreters differ.
    """

    def __init__(self) -> None:
        self._text = grown()
        self._domains = [
            Domain(f"uuid-{at}", f"guest-{at}", at, (("domain", f"guest-{at}"),))
            for at in range(GUESTS)
        ]
        self._decoder = Decoder(shipped(), lambda _: None)
        self._records = [json.loads(self._text) for _ in range(GUESTS)]
        self._latest = Latest(lambda: 0.0, lambda: 0)
        self._pages = Pages(self._latest, structlog.get_logger())
        self._loop = asyncio.new_event_loop()
        self.batch = self.decoded()
        self.encoders = {name: encode for name, encode in rows() if "compressed" not in name}
        self.parts: dict[str, Callable[[], object]] = {
            YARDSTICK: self._yardstick,
            "poll": self._poll,
            "page": self._page,
        } | {name: partial(encode, self.batch) for name, encode in self.encoders.items()}
        for _ in range(ROUNDS):
            for part in self.parts.values():
                part()

    def decoded(self) -> Batch:
        """Return a batch of all records."""
        readings = [
            reading
            for domain, record in zip(self._domains, self._records, strict=True)
            for reading in self._decoder.readings(domain, record)
        ]
        return Batch("monitor", 0, tuple(readings))

    def close(self) -> None:
        """Let go of the loop."""
        self._loop.close()

    def _poll(self) -> None:
        self._latest.put(self.decoded())

    def _page(self) -> None:
        self._loop.run_until_complete(self._pages.parts(openmetrics=False))

    def _yardstick(self) -> None:
        for _ in range(GUESTS):
            json.loads(self._text)


def main() -> None:
    """Do what the input names."""
    work = Work()
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        work.parts[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    main()
