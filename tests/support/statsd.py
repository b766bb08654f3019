"""The lines of StatsD."""

import re


GAUGE = re.compile(r"([A-Za-z0-9_.]+):(-?[0-9.]+(?:e-?[0-9]+)?)\|g(?:\|#(.+))?")
