"""A field in the catalog needs no code, neither for the documentation nor for the page."""

from pathlib import Path

import structlog

from virtstatd import catalog
from virtstatd.catalog.decode import Decoder
from virtstatd.model import Batch
from virtstatd.serving.latest import Latest
from virtstatd.serving.page import Pages
from virtstatd.testing import make_domain


def test_a_new_field_is_in_the_table_without_any_code(tmp_path: Path):
    """One line in the catalog is a row of `virtstatd fields`."""
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
