"""Whatever others write, each reader returns or refuses: no crash, no cost without bound."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.mouths import MOUTHS, kept
from virtstatd.collect.descriptions.xml import XML_MAX_BYTES, Undescribable, parsed_xml


SOAK_SECONDS = 60
CPU_SECONDS = 2.0
"""What one input may cost; the test of it is not about this machine's speed."""

SPREAD = (
    "".join(f' xmlns:a{number:05}=""' for number in range(60_000)),
    "<b xmlns:c=''>" * 400,
    "</b>" * 400,
)
BOMBS = {
    "prefixes": f"<domain><a{SPREAD[0]}>{SPREAD[1]}{SPREAD[2]}</a></domain>",
    "attributes": "<domain " + " ".join(f"a{number}='1'" for number in range(80_000)) + "/>",
    "siblings": "<domain><devices>" + "<disk/>" * 120_000 + "</devices></domain>",
    "depth": "<a>" * 100_000,
    "entities": "<!DOCTYPE a [<!ENTITY a '" + "x" * 1000 + "'>]><a>" + "&a;" * 300_000 + "</a>",
    "size": "<domain>" + "<title>x</title>" * 700_000 + "</domain>",
}


@pytest.mark.parametrize("name", MOUTHS)
def test_what_once_broke_something_is_taken(name: str):
    """Every input that was kept is read, and none costs much."""
    for path in kept(name):
        begun = time.process_time()
        MOUTHS[name](path.read_bytes())
        assert time.process_time() - begun < CPU_SECONDS, path.name


def mangled(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return bytes, and seeds in which pieces were replaced, doubled, moved or cut out."""
    piece = st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [b"\r\n", b"\0", b'"', b"\xe2\x80\xa8", b"\xed\xa0\x80", b"<", b"-1", b"nan"]
        ),
        st.sampled_from(
            [b"1e400", b"18446744073709551616", b"{", b"]", b"\x1b[2J", b"%", b"xmlns"]
        ),
    )

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        seed = bytearray(draw(st.sampled_from(seeds))[:4096])
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(seed)))
            until = at + draw(st.sampled_from([0, 0, 1, 2, 8, 40]))
            seed[at:until] = draw(piece) * draw(st.sampled_from([1, 1, 1, 2, 50]))
        return bytes(seed)

    return st.one_of(st.binary(max_size=200), changed())


@pytest.mark.parametrize("name", MOUTHS)
def test_no_input_is_a_surprise(name: str):
    """Bytes, and good inputs that were changed a little, raise nothing but what is expected."""
    seeds = [path.read_bytes() for path in kept(name)]

    @given(mangled(seeds))
    def take(data: bytes) -> None:
        MOUTHS[name](data)

    take()


@pytest.mark.parametrize("name", BOMBS)
def test_no_xml_costs_the_host_its_memory(name: str):
    """A megabyte of XML that an owner wrote costs tens of megabytes at most, and no seconds."""
    begun, before = time.process_time(), _peak_kib()
    try:
        parsed_xml(BOMBS[name])
    except Undescribable:
        assert name in ("depth", "entities", "size")
    else:
        assert len(BOMBS[name]) < XML_MAX_BYTES
    assert time.process_time() - begun < CPU_SECONDS
    assert _peak_kib() - before < 100_000


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.soak
@pytest.mark.parametrize("name", MOUTHS)
def test_a_fuzzer_finds_nothing(tmp_path: Path, name: str):
    """Guided by what each input reaches in the code, a minute of them breaks no reader."""
    (tmp_path / "corpus").mkdir()
    for path in kept(name):
        (tmp_path / "corpus" / path.name).write_bytes(path.read_bytes())
    done = subprocess.run(
        [
            *(sys.executable, Path(__file__).parents[1] / "support" / "fuzzer.py", name),
            *(tmp_path / "corpus", f"-max_total_time={SOAK_SECONDS}", "-rss_limit_mb=1024"),
            *(f"-artifact_prefix={tmp_path}/", "-timeout=10", f"-seed={random.randrange(1 << 31)}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=SOAK_SECONDS * 20,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
    print(f"{name}: {lines}")
    broken = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert (done.returncode, broken) == (0, {}), done.stderr[-3000:]
