"""What the README says is what the code does."""

import json
import re
import subprocess
from pathlib import Path

import structlog

from support.servers import needs
from virtstatd import catalog
from virtstatd.catalog.decode import Decoder
from virtstatd.commands.reference import PART, renewed
from virtstatd.config.file import parse_config
from virtstatd.model import Batch
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages
from virtstatd.testing import make_domain


TOP = Path(__file__).parents[3]
README = TOP / "README.md"


def test_generated_parts_are_fresh():
    """Tables of fields, options and sinks, and the template of a sink, are those of the code."""
    text = README.read_text(encoding="utf-8")

    names = {found["name"] for found in PART.finditer(text)}
    assert names == {"fields", "findings", "options", "promises", "sinks", "template"}
    assert renewed(text) == text, "run: python -m virtstatd.commands.reference README.md"


def test_a_new_field_is_in_the_table_without_any_code(tmp_path: Path):
    """One line in the catalog is a row of the README."""
    extra = tmp_path / "extra.toml"
    extra.write_text(
        'group = "block"\n[fields]\n"{target_device}.wear" = { name = "wear", kind = "gauge", '
        'unit = "seconds", help = "Invented for this test." }\n'
    )
    row = "| libvirt_domain_block_stats_wear_seconds |"

    assert row in catalog.load(extra).table("markdown").replace("`", "")
    assert row not in catalog.load().table("markdown").replace("`", "")


async def test_a_new_field_is_on_the_page_without_any_code(tmp_path: Path):
    """The same line gives a record's number its name, its help and its unit."""
    extra = tmp_path / "extra.toml"
    extra.write_text(
        'group = "block"\n[fields]\n"{target_device}.wear" = { name = "wear", kind = "gauge", '
        'unit = "seconds", help = "Invented for this test." }\n'
    )
    record: dict[str, int | str] = {"block.count": 1, "block.0.name": "vda", "block.0.wear": 5}
    pages = []
    for known in (catalog.load(), catalog.load(extra)):
        readings = Decoder(known, lambda _: None).readings(make_domain(), record)
        latest = Latest(lambda: 0.0, lambda: 0)
        latest.put(Batch("bulk", 0, readings))
        page = await Pages(latest, structlog.get_logger()).get(openmetrics=False)
        pages.append(b"".join(page.plain()).decode())

    assert "wear_seconds" not in pages[0]
    assert (
        'libvirt_domain_unknown_stat{domain="vm-0",group="block",key="block.0.wear"} 5' in pages[0]
    )
    name = "libvirt_domain_block_stats_wear_seconds"
    assert f"# HELP {name} Invented for this test." in pages[1]
    assert f'{name}{{domain="vm-0",target_device="vda"}} 5' in pages[1]


def test_what_the_readme_links_to_exists():
    """A link of the README leads to a file, or to one of its headings."""
    text = README.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    anchors = {f"#{re.sub(r'[^a-z0-9 -]', '', each.lower()).replace(' ', '-')}" for each in titles}

    assert links
    assert not [link for link in links if not (link in anchors or (TOP / link).exists())]


def test_metrics_that_the_readme_names_are_in_the_catalog():
    """Text, excerpts and queries use names that the agent gives."""
    text = PART.sub("", README.read_text(encoding="utf-8"))
    named = set(re.findall(r"\b(?:libvirt|virtstatd)_\w*[a-z](?![\w{.\[])", text))
    known = set(re.findall(r"\b(?:libvirt|virtstatd)_\w+", catalog.load().table("text")))
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "count", "sum")}

    assert len(named) > 10
    assert named - known == {"virtstatd_webhook", "virtstatd_thermal"}  # modules


def test_excerpts_of_configuration_are_good():
    """What the README shows of a configuration can be copied."""
    excerpts = [each for each in blocks("toml") if re.match(r"\[(?!project)", each)]

    assert excerpts
    for each in excerpts:
        parse_config(each, "README.md")


@needs("promtool")
def test_queries_are_good(tmp_path: Path):
    """What the README shows of PromQL is understood by Prometheus."""
    queries = [each for block in blocks("promql") for each in block.split("\n\n")]
    rules = [{"record": f"q:{number}", "expr": each} for number, each in enumerate(queries)]
    file = tmp_path / "rules.json"  # which is YAML
    file.write_text(json.dumps({"groups": [{"name": "readme", "rules": rules}]}))

    assert queries
    subprocess.run(["promtool", "check", "rules", file], check=True, capture_output=True)


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language that are not generated."""
    text = PART.sub("", README.read_text(encoding="utf-8"))
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
