"""Try one reader of `mouths.py` with what atheris makes up: `fuzzer.py NAME CORPUS OPTION...`."""

import sys
from pathlib import Path

import atheris


ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "agent")]

with atheris.instrument_imports(include=["virtstatd"]):
    from support.mouths import MOUTHS

name = sys.argv.pop(1)
atheris.Setup(sys.argv, MOUTHS[name])
atheris.Fuzz()
