"""The rules for Prometheus: they speak of what there is, and tell in time."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from virtstatd.catalog import load


RULES = Path(__file__).parents[2] / "config" / "prometheus" / "steal.yml"
SCRAPE_SECONDS = 15
MINUTES = 10
VCPUS = 2


def scrapes(each_second: list[float]) -> str:
    """Return what a scraper sees of a counter that grows by so much in each second."""
    total, seen = 0.0, []
    for second, grown in enumerate(each_second):
        total += grown
        if second % SCRAPE_SECONDS == 0:
            seen.append(f"{total:.3f}")
    return " ".join(seen)


def guest(name: str, host: str, waited: list[float]) -> list[dict[str, str]]:
    """Return the series of a guest whose first vCPU waited for these shares of its seconds."""
    labels = f'domain="{name}",instance="{host}"'
    stem = "libvirt_domain_steal_ratio"
    short = [float(VCPUS - (share > 0.2)) for share in waited]
    peaks = [
        max(waited[max(0, second - 59) : second + 1])
        for second in range(0, len(waited), SCRAPE_SECONDS)
    ]
    vcpu = f'{labels},vcpu="0"'
    return [
        {"series": f'{stem}_bucket{{{labels},le="0.2"}}', "values": scrapes(short)},
        {"series": f"{stem}_count{{{labels}}}", "values": scrapes([VCPUS] * len(waited))},
        {"series": f"libvirt_domain_steal_peak_ratio{{{labels}}}", "values": spaced(peaks)},
        {"series": f"libvirt_domain_vcpu_delay_seconds_total{{{vcpu}}}", "values": scrapes(waited)},
    ]


def spaced(numbers: list[float]) -> str:
    """Return numbers as the values of a series."""
    return " ".join(f"{number:.3f}" for number in numbers)


def promtool(*args: str | Path) -> str:
    """Run promtool, which must be content, and return what it says."""
    done = subprocess.run(["promtool", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def firing(name: str, minute: float, *labels: str) -> dict[str, object]:
    """Return what promtool is to expect: an alert that fires for exactly these, at a time."""
    by = "domain" if name.startswith("Guest") else "instance"
    return {
        "expr": f'count by ({by}) (ALERTS{{alertname="{name}", alertstate="firing"}})',
        "eval_time": f"{round(minute * 60)}s",
        "exp_samples": [{"labels": f'{{{by}="{label}"}}', "value": 1} for label in labels],
    }


def run_rules(folder: Path, series: list[dict[str, str]], *expected: dict[str, object]) -> None:
    """Let promtool run the rules over series."""
    interval = f"{SCRAPE_SECONDS}s"
    test = {"interval": interval, "input_series": series, "promql_expr_test": expected}
    case = {"rule_files": [str(RULES)], "evaluation_interval": interval, "tests": [test]}
    (folder / "case.yml").write_text(json.dumps(case))
    promtool("test", "rules", folder / "case.yml")


def test_storms_are_told_that_the_average_hides(tmp_path: Path):
    """One bad second in twenty is told of within two minutes; its average is 3 %."""
    seconds = range(MINUTES * 60)
    storms = [0.6 if second % 20 == 10 else 0.0 for second in seconds]
    once = [0.6 if second == 185 else 0.0 for second in seconds]
    average = "max by (domain) (rate(libvirt_domain_vcpu_delay_seconds_total[5m])) > 0.1"
    run_rules(
        tmp_path,
        [
            *guest("calm", "a", [0.01] * len(seconds)),
            *guest("storms", "a", storms),
            *guest("once", "a", once),
        ],
        firing("GuestStealPeak", 1, "storms"),
        firing("GuestStealPeak", 3.25, "once", "storms"),
        firing("GuestStealPeak", 5, "storms"),
        firing("GuestStealStorms", 2.5, "storms"),
        firing("GuestStealStorms", 9, "storms"),
        firing("HostStealsFromGuests", 9),
        {"expr": average, "eval_time": "9m", "exp_samples": []},
    )


def test_a_host_without_a_cpu_to_spare_is_told_of(tmp_path: Path):
    """A host whose guests wait in one second of ten is told of, its neighbour is not."""
    seconds = range(MINUTES * 60)
    full = [0.4 if second % 10 == 0 else 0.0 for second in seconds]
    run_rules(
        tmp_path,
        [*guest("one", "full", full), *guest("two", "empty", [0.0] * len(seconds))],
        firing("HostStealsFromGuests", 8, "full"),
    )


def test_rules_speak_of_what_there_is():
    """Every series of ours that a rule names is in the catalog."""
    families = {line.field.family for line in load().fields if line.field}
    named = set(re.findall(r"\b(?:libvirt|virtstatd)_\w+", RULES.read_text()))
    assert named
    assert {re.sub("_(total|bucket|count|sum)$", "", name) for name in named} <= families


def test_promtool_takes_the_rules():
    """Debian's own promtool has no complaint about them."""
    assert "5 rules found" in promtool("check", "rules", RULES)
