"""The page, with real guests of which one is stopped, one starved and one throttled."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import async_playwright, expect

from lab.support.hypervisor import Lab
from support.agent import running
from support.browser import CHROMIUM, browsing


@pytest.mark.needs("chromium", "root")
async def test_three_that_hurt(private_lab: Lab, tmp_path: Path):
    """
    The page names the guest that is stopped, the one that is starved and the throttled disk.

    The limit is in the chart of that disk, and the parts of its guest's memory are known.
    """
    lab = private_lab
    for name in ("starved", "throttled"):
        await asyncio.to_thread(lab.live_guest, name)
    # polls far enough apart to see several requests of a disk that is held back
    with running(tmp_path, lab.uri_readonly, local=True, monitor=5.0) as agent:
        address = await asyncio.to_thread(lambda: agent.address)
        async with (
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as it,
            browsing(it, int(address.rpartition(":")[2])) as page,
        ):
            hurts = page.locator(".findings li")
            await expect(page.locator(".guests h2 small")).to_have_text("6")
            lab.virsh("schedinfo", "starved", "--live", "vcpu_quota=2000")
            lab.virsh("blkdeviotune", "throttled", "vda", "--total-iops-sec", "4")
            with lab.stuck("guest-0"):
                for found in (
                    "The monitor of guest-0 does not answer",
                    "vCPUs of starved waited",
                    "Disk vda of throttled is at",
                ):
                    await expect(hurts.filter(has_text=found)).to_contain_text("virsh ")
                await page.get_by_role("link", name="Disk vda of throttled is at").click()
                await expect(page.locator("tr[aria-current=true]")).to_contain_text("both 4 IOPS")
                requests = page.locator(".charts.three .chart", has_text="Requests")
                await expect(requests).to_contain_text(re.compile(r"limit\s+4.*/s"))
                memory = page.locator(".chart", has_text="Memory").locator(".key")
                for part in ("used", "cache", "unused", "kernel", "on the host"):
                    await expect(memory.filter(has_text=part).last).to_contain_text("iB")
