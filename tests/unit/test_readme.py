"""What the README says is what the code does."""

import re
from pathlib import Path

from virtstatd import catalog
from virtstatd.readme import PART, renewed


TOP = Path(__file__).parents[2]
README = TOP / "README.md"


def test_generated_parts_are_fresh():
    """Tables of fields, options and sinks are those of the code."""
    text = README.read_text(encoding="utf-8")

    assert {found["name"] for found in PART.finditer(text)} == {"fields", "options", "sinks"}
    assert renewed(text) == text, "run: python -m virtstatd.readme README.md"


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


def test_files_that_the_readme_names_exist():
    """A link of the README leads somewhere."""
    text = README.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]

    assert links
    assert all((TOP / link).exists() for link in links)
