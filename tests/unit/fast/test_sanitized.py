"""The library in C under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.native import CHECKOUT


EXAMPLES = 10_000
RUN_SECONDS = 1500


@pytest.mark.soak
@pytest.mark.timeout(RUN_SECONDS + 60)
def test_no_input_makes_the_library_err():
    """Random contents of files make it neither leave its buffers nor differ from Python."""
    found = subprocess.check_output(["cc", "-print-file-name=libasan.so"], text=True)
    undefined = subprocess.check_output(["cc", "-print-file-name=libubsan.so"], text=True)
    environment = os.environ | {
        "LD_PRELOAD": f"{found.strip()} {undefined.strip()}",
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16",  # the interpreter keeps much
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT / "agent"), str(CHECKOUT / "tests")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzz_native", str(EXAMPLES)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-4000:]
