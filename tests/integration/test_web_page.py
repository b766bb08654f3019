"""The page in a browser, over the API of hosts that a test makes up."""

import asyncio
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from support.agent import running
from support.browser import CHROMIUM, browsing, showing
from support.made_up_host import MadeUpHost
from support.page import page_of
from support.simulator import simulated


pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

NODES = """() => {
  const walker = document.createTreeWalker(document, NodeFilter.SHOW_ALL);
  let count = 1;
  while (walker.nextNode()) count += 1;
  return count;
}"""

TABLE_FITS = """() => {
  const table = document.querySelector(".rows");
  return table.scrollWidth <= table.clientWidth;
}"""

FITS = "() => document.documentElement.scrollWidth <= window.innerWidth"

SCROLLS = """each => [...each.querySelectorAll("*")].some(
  (one) => getComputedStyle(one).overflowY !== "visible" && one.scrollHeight > one.clientHeight + 2
)"""

AMBER = """() => {
  const canvas = document.querySelector(".charts.three canvas");
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, width, height);
  let found = 0;
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue, there] = data.slice(at, at + 4);
    if (red > 120 && green < 100 && blue < 40 && there > 60) found += 1;
  }
  return found;
}"""
"""How many dots of the first chart of a disk have the colour of its limit, in the light theme."""

HOSTILE = {
    0: "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>",
    1: "\x1b[31mred\x1b[0m\x07\r\n\x00",
    2: "\u202egpj.exe\u2066\u200f",
    3: "🔥" * 255,
    4: "</td></tr></table>${alert(1)}{{1}}",
}


TURNING = "[\\x00-\\x1f\\u200f\\u202e\\u2066]"
"""Characters of those names that would change what is around them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """Yield a browser for the tests of this module, each of which has a profile of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


def rows(page: Page) -> Any:
    """Return the rows of guests that are in the document."""
    return page.locator(".rows tbody tr:not(.space)")


async def test_a_thousand_guests_are_a_window(chromium: Browser):
    """With 1,000 guests the document has the visible rows, and the height is that of all."""
    async with showing(chromium, MadeUpHost(1000), viewport={"width": 1440, "height": 900}) as page:
        await expect(page.locator(".guests h2 small")).to_have_text("1000")
        assert await page.evaluate(NODES) <= 3000
        scroller = page.locator(".rows")
        height = await scroller.evaluate("each => each.scrollHeight")
        assert 28 * 1000 <= height <= 28 * 1001 + 4
        first = await rows(page).first.text_content()
        await scroller.evaluate("each => each.scrollTo(0, each.scrollHeight)")
        last = page.locator('.rows tr[aria-rowindex="1001"] bdi').first
        await expect(last).to_be_visible()
        assert await rows(page).first.text_content() != first
        assert await page.evaluate(NODES) <= 3000


async def test_sorting(chromium: Browser):
    """A click on a column's head sorts by it, a second one turns the order, a third one ends it."""
    host = MadeUpHost(200)
    async with showing(chromium, host) as page:
        head = page.locator(".rows th", has_text=re.compile("^Steal"))
        for order, key in (("descending", "-steal_ratio"), ("ascending", "steal_ratio")):
            await head.get_by_role("button").click()
            await expect(head).to_have_attribute("aria-sort", order)
            wanted = host.guests({"sort": key})["guests"][0]["name"]
            await expect(rows(page).first.locator("th")).to_have_text(wanted)
            assert f"sort={key}" in page.url
        await head.get_by_role("button").press("Enter")
        await expect(head).to_have_attribute("aria-sort", "none")
        assert "sort=" not in page.url


async def test_filtering(chromium: Browser):
    """Filter words leave the guests that fit; a wrong word is named, and nothing else changes."""
    async with showing(chromium, MadeUpHost(200), allowed=("400",)) as page:
        box = page.get_by_role("searchbox")
        await box.fill("web")
        await expect(page.locator(".guests h2 small")).to_have_text("34 of 200")
        assert "filter=web" in page.url
        await box.fill("no=word")
        await expect(page.locator(".fault")).to_contain_text("no=word: no such word")
        await box.fill("nobody has this name")
        await expect(page.locator(".guests .empty")).to_have_text("No guest matches the filter.")
        await box.fill("")
        await expect(page.locator(".guests h2 small")).to_have_text("200")
        await expect(page.locator(".fault")).to_have_count(0)


async def test_the_address_holds_what_is_shown(chromium: Browser):
    """An address with sorting, filter, columns and period shows just that."""
    path = "#/?sort=name&filter=db&columns=name,partition&minutes=15"
    async with showing(chromium, MadeUpHost(200), path) as page:
        await expect(page.get_by_role("searchbox")).to_have_value("db")
        heads = page.locator(".rows thead th")
        await expect(heads).to_have_text([re.compile("^Name"), "Partition"])
        await expect(heads.first).to_have_attribute("aria-sort", "ascending")
        chosen = page.get_by_role("button", name="15 min")
        await expect(chosen).to_have_attribute("aria-pressed", "true")
        await page.locator(".picker summary").click()
        await page.get_by_role("checkbox", name="IOPS").check()
        await expect(heads).to_have_text([re.compile("^Name"), "IOPS", "Partition"])
        assert "disk_iops" in page.url


async def test_a_guest_by_mouse_and_by_keys(chromium: Browser):
    """A row opens its guest, by a click or by arrows and Enter; going back shows the list."""
    host = MadeUpHost(200)
    async with showing(chromium, host) as page:
        await rows(page).nth(3).locator("td").nth(2).click()
        await expect(page.locator("h1")).to_contain_text("running")
        await expect(page.get_by_role("region", name="Disks")).to_contain_text("vda")
        await page.go_back()
        await rows(page).first.locator("a").focus()
        for _ in range(60):
            await page.keyboard.press("ArrowDown")
        focused = page.locator("tr[aria-rowindex='62'] a")
        await expect(focused).to_be_focused()
        name = await focused.text_content()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1 bdi")).to_have_text(name or "")
        assert page.url.endswith(host.uuid(next(n for n in range(200) if host.name(n) == name)))


async def test_a_guest_tells_where_it_is(chromium: Browser):
    """CPUs, NUMA nodes, storages and networks are in a panel, and names there stay text."""
    host = MadeUpHost(1)
    document = host.guest(0)
    document["disks"][0]["storage"] = HOSTILE[0]
    document["disks"][1]["error"] = "no_space"
    host.guest = lambda *_, **__: document  # type: ignore[method-assign]
    async with showing(chromium, host, f"#/guest/{host.uuid(0)}") as page:
        panel = page.get_by_label("Where it is", exact=True)
        await expect(panel).to_contain_text("may run on CPUs 0-31, ran last on 0")
        await expect(panel).to_contain_text("Memory on node 0")
        await expect(panel).to_contain_text("<img src=x")
        await expect(panel).to_contain_text("nas:/export/vms, in error: no_space")
        await expect(panel).to_contain_text(
            "bridge br0, 52:54:00:12:34:56, virtio, in at most 125 MiB"
        )
        assert await page.title() != "taken"


async def test_what_a_guest_says_of_itself(chromium: Browser):
    """File systems are judged as their finding is, facts are listed, and lies stay text."""
    host = MadeUpHost(1)
    document = host.guest(0)
    full = {"mountpoint": HOSTILE[0], "device": "vda1", "type": "ext4", "disks": ["vda"]}
    document["filesystems"] = [full | {"size_bytes": 100, "used_bytes": 99, "used_ratio": 0.99}]
    document["guest_agent"] = {
        "responsive": True,
        "os": {"os_pretty_name": "Debian 12"},
        "hostname": HOSTILE[2],
        "load": [0.5, None, None],
        "users": 1,
        "logins": [{"user": "root", "since": document["time"]}],
        "addresses": [{"interface": "eth0", "address": "10.0.0.2", "prefix": "24"}],
    }
    host.guest = lambda *_, **__: document  # type: ignore[method-assign]
    async with showing(chromium, host, f"#/guest/{host.uuid(0)}") as page:
        table = page.get_by_label("File systems, as the guest reports", exact=True)
        await expect(table).to_contain_text("<img src=x")
        await expect(table).to_contain_text("99.0 %")
        inside = page.get_by_label("Inside, as the guest reports", exact=True)
        for text in ("Debian 12", "1 root", "10.0.0.2/24"):
            await expect(inside).to_contain_text(text)
        assert await page.title() != "taken"


async def test_a_guest_that_is_not_there(chromium: Browser):
    """The address of a guest that has gone says so, and leads back to the others."""
    host = MadeUpHost(12)
    async with showing(chromium, host, f"#/guest/{host.uuid(99)}", allowed=("404",)) as page:
        await expect(page.locator(".empty")).to_contain_text("no such guest")
        await page.get_by_role("link", name="All guests").click()
        await expect(rows(page)).to_have_count(12)


async def test_charts_and_numbers_move(chromium: Browser):
    """What the host sends each second is drawn, and written beside the lines."""
    host = MadeUpHost(12)
    async with showing(chromium, host) as page:
        chart = page.locator(".chart").first
        value = chart.locator(".key b").first
        await expect(value).to_contain_text("%")
        await expect(chart.locator("canvas")).to_have_count(1)
        pixels = "each => each.querySelector('canvas').toDataURL()"
        written, drawn = await value.text_content(), await chart.evaluate(pixels)
        host.move(120)
        await expect(value).not_to_have_text(written or "")
        await page.wait_for_function(
            "before => document.querySelector('.chart canvas').toDataURL() !== before", arg=drawn
        )


async def test_each_chart_has_its_table(chromium: Browser):
    """A button shows the numbers of a chart as a table in its place."""
    async with showing(chromium, MadeUpHost(12)) as page:
        chart = page.locator(".chart").nth(3)
        await chart.get_by_role("button", name="Table of Disks").click()
        await expect(chart.locator("thead th")).to_have_text(["Time", "read", "write"])
        assert await chart.locator("tbody tr").count() >= 12
        await expect(chart.locator("tbody td").first).to_contain_text("iB/s")


@pytest.mark.parametrize(("count", "tables"), [(1, 1), (8, 1), (12, 2), (128, 4)])
async def test_every_vcpu_is_readable(chromium: Browser, count: int, tables: int):
    """All vCPUs are there at once, in tables side by side, none of which scrolls."""
    host = MadeUpHost(12)
    host.vcpus = {5: count}
    size = {"width": 1440, "height": 900}
    async with showing(chromium, host, f"#/guest/{host.uuid(5)}", viewport=size) as page:
        panel = page.get_by_role("region", name="vCPUs")
        await expect(panel.locator("tbody tr")).to_have_count(count)
        await expect(panel.locator("table")).to_have_count(tables)
        await expect(panel.locator("tbody tr").last).to_contain_text(f"{count - 1}")
        assert not await panel.evaluate(SCROLLS)
        await page.set_viewport_size({"width": 390, "height": 844})
        if count > 48:
            await expect(panel.locator("tbody tr")).to_have_count(16)
            await panel.get_by_role("button", name=f"All {count}").click()
        await expect(panel.locator("tbody tr")).to_have_count(count)
        assert await page.evaluate(FITS)


async def test_a_disk_against_its_limits(chromium: Browser):
    """The charts of a disk have its limits as dashed lines and words, and another has its own."""
    host = MadeUpHost(12)
    path = f"#/guest/{host.uuid(1)}"
    async with showing(chromium, host, path, color_scheme="light") as page:
        chart = page.locator(".charts.three .chart").first
        await expect(chart).to_contain_text("limit 50.0 MiB/s")
        await page.wait_for_function(f"() => ({AMBER})() > 50")
        await expect(page.locator(".charts.three .chart").nth(1)).to_contain_text("limit 1,000 /s")
        await page.get_by_role("combobox").select_option("vdb")
        await expect(chart).not_to_contain_text("limit")
        await page.wait_for_function(f"() => ({AMBER})() === 0")
        assert "device=vdb" in page.url
        await chart.get_by_role("button", name="Table of Rate").click()
        assert await chart.locator("tbody tr").count() >= 12, "it has the last hour"


async def test_memory_is_a_stack(chromium: Browser):
    """The parts of a guest's memory add up to what it has, in the chart and in its table."""
    host = MadeUpHost(12)
    async with showing(chromium, host, f"#/guest/{host.uuid(4)}") as page:
        chart = page.locator(".chart").nth(1)
        await expect(chart.locator(".key")).to_have_text(
            [re.compile(each) for each in ("used", "cache", "unused", "kernel", "on the host")]
        )
        await chart.get_by_role("button", name="Table of Memory").click()
        cells = await chart.locator("tbody tr").nth(3).locator("td").all_text_contents()
        parts = [float(each.split()[0]) / (1024 if "MiB" in each else 1) for each in cells[:4]]
        assert sum(parts) == pytest.approx(32, abs=0.3)


async def test_columns_say_what_they_mean(chromium: Browser):
    """A column's head has its meaning for the mouse, the keyboard and a screen reader."""
    means = re.compile("ready and waited for a CPU")
    async with showing(chromium, MadeUpHost(12)) as page:
        button = page.locator(".rows th", has_text="Steal").get_by_role("button")
        await expect(button).to_have_accessible_description(means)
        hint = page.locator(".hint")
        await expect(hint).to_be_hidden()
        await button.hover()
        await expect(hint).to_have_text(means)
        await page.keyboard.press("Escape")
        await expect(hint).to_be_hidden()
        await page.get_by_role("searchbox").focus()
        for _ in range(8):
            await page.keyboard.press("Tab")
            if await button.evaluate("each => each === document.activeElement"):
                break
        await expect(hint).to_have_text(means)
        await expect(hint).to_be_in_viewport()


async def test_a_number_is_marked_where_its_finding_begins(chromium: Browser):
    """What the API says of a kind of finding decides from when a number has a symbol."""
    host = MadeUpHost(12)
    async with showing(chromium, host, f"#/guest/{host.uuid(1)}") as page:
        cell = (
            page.get_by_role("region", name="Disks").locator("td[data-title='At its limit']").first
        )
        await expect(cell).to_contain_text("◆")
        host.kinds["disk_limited"] |= {"threshold": 1.5}
        await page.reload()
        await expect(cell).to_contain_text("%")
        await expect(cell).not_to_contain_text("◆")


async def test_pools_and_networks(chromium: Browser):
    """Each has a row with its name as text; what is nearly full and what hangs is marked."""
    host = MadeUpHost(5)
    host.with_pools = True
    async with showing(chromium, host) as page:
        pools = page.get_by_role("group", name="Table: Storage pools").get_by_role("row")
        await expect(pools.filter(has_text="nfs<i>")).to_contain_text("hangs")
        await expect(pools.filter(has_text="fast").locator(".mark")).to_have_count(1)
        await expect(pools.filter(has_text="old").locator(".mark.warning")).to_contain_text("5.0")
        networks = page.get_by_role("group", name="Table: Networks").get_by_role("row")
        await expect(networks.filter(has_text="lab<b>")).to_contain_text("inactive")
    async with showing(chromium, MadeUpHost(0)) as page:
        await expect(page.get_by_role("heading", name="Guests")).to_be_visible()
        await expect(page.get_by_role("heading", name="Storage pools")).to_have_count(0)


async def test_a_guest_that_turns_stuck_shows(chromium: Browser):
    """A guest that stops answering is in the strip, in what hurts and in its row at once."""
    host = MadeUpHost(12)
    host.stuck = set()
    async with showing(chromium, host) as page:
        await expect(rows(page)).to_have_count(12)
        await expect(page.locator(".strip")).not_to_contain_text("stuck")
        host.stuck = {4}
        host.move()
        await expect(page.locator(".strip")).to_contain_text("1 stuck")
        line = page.locator(".findings li").first
        await expect(line).to_contain_text("critical")
        await expect(line).to_contain_text(f"{host.name(4)} does not answer")
        await expect(rows(page).first).to_contain_text(
            re.compile(f"stuck.*{host.name(4)}", re.DOTALL)
        )
        await line.get_by_role("link").click()
        await expect(page.locator("h1")).to_contain_text("stuck")


async def test_a_disk_that_hurts(chromium: Browser):
    """What hurts a disk leads to it: to the guest, with the disk marked and in view."""
    async with showing(chromium, MadeUpHost(40), viewport={"width": 1440, "height": 500}) as page:
        await page.locator(".findings a", has_text="of its limit").first.click()
        disk = page.get_by_role("row", name="vda").and_(page.locator("[aria-current=true]"))
        await expect(disk).to_be_in_viewport()
        await expect(disk).to_have_count(1)


async def test_what_happened_last(chromium: Browser):
    """The last events of all guests are below the table, as texts, and lead to their guest."""
    host = MadeUpHost(12, names=HOSTILE)
    async with showing(chromium, host) as page:
        panel = page.get_by_role("region", name="What happened")
        await expect(panel.locator("td").first).to_contain_text(HOSTILE[0])
        await expect(panel.locator(".prose")).to_contain_text(f"io error enospc {HOSTILE[0]}")
        assert await page.evaluate(FITS)
        await panel.get_by_role("link").click()
        await expect(page.locator("h1 bdi")).to_have_text(HOSTILE[0])


async def test_hostile_names_stay_in_their_cell(chromium: Browser):
    """Markup, escapes, reversed text and 255 emoji are text of one cell, and move no other."""
    host = MadeUpHost(12, names=HOSTILE)
    async with showing(chromium, host, "#/?sort=vcpus") as page:
        await expect(rows(page)).to_have_count(12)
        assert await page.title() == "virtstatd"
        assert await page.locator("img, script:not([src])").count() == 0
        boxes = await rows(page).evaluate_all(
            "all => all.map(row => [...row.children].map(each => {"
            " const box = each.getBoundingClientRect(); return [box.x, box.width, box.height]; }))"
        )
        assert all(row == boxes[0] for row in boxes)
        assert await page.evaluate(FITS)
        shown = await rows(page).locator("th bdi").all_text_contents()
        assert HOSTILE[0] in shown
        assert HOSTILE[4] in shown
        assert not re.search(TURNING, "".join(shown))
        for index, name in HOSTILE.items():
            await page.goto(page.url.split("#")[0] + f"#/guest/{host.uuid(index)}")
            await expect(page.locator("h1 bdi")).to_have_text(re.sub(TURNING, "\ufffd", name))
            assert await page.evaluate(FITS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_accessibility(chromium: Browser, scheme: Any):
    """No view has a serious or critical fault that axe finds, in either colours."""
    host = MadeUpHost(40)
    async with showing(chromium, host, color_scheme=scheme) as page:
        for view, seen in (
            ("#/", ".rows tbody a"),
            (f"#/guest/{host.uuid(5)}", "h1 bdi"),
            ("#/agent", "h1"),
        ):
            await page.goto(page.url.split("#")[0] + view)
            await expect(page.locator(seen).first).to_be_visible()
            found = (await Axe().run(page)).response["violations"]
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            assert not serious, serious


@pytest.mark.parametrize("count", [0, 1, 12, 1000])
async def test_every_width_fits(chromium: Browser, count: int):
    """No view scrolls sideways, on a desk, a tablet or a phone, however many guests there are."""
    host = MadeUpHost(count)
    views = ["#/agent", "#/", *([f"#/guest/{host.uuid(0)}"] if count else [])]
    async with showing(chromium, host) as page:
        for view in views:
            await page.goto(page.url.split("#")[0] + view)
            for width, height in ((1440, 900), (768, 1024), (390, 844)):
                await page.set_viewport_size({"width": width, "height": height})
                await expect(page.locator("h1").first).to_be_attached()
                assert await page.evaluate(FITS), (view, width)
                if view == "#/" and count:
                    await expect(rows(page).first).to_be_attached()
                    await page.wait_for_function(TABLE_FITS)


async def test_empty_and_down(chromium: Browser):
    """A host without guests says so, and one whose libvirt is down says that."""
    host = MadeUpHost(0)
    async with showing(chromium, host) as page:
        await expect(page.locator(".guests .empty")).to_contain_text("No guests on this host")
        await expect(page.locator(".view")).to_contain_text("Nothing hurts now")
        host.up = False
        host.move()
        await expect(page.locator(".strip")).to_contain_text("libvirt is down")
        await expect(page.locator(".findings li").first).to_contain_text("Libvirt does not answer")
        await expect(page.locator(".connection")).to_contain_text("data 3 min old")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (HTTPStatus.UNAUTHORIZED, "Log in to see this host"),
        (HTTPStatus.FORBIDDEN, "Not shown here"),
        (HTTPStatus.SERVICE_UNAVAILABLE, "Live view is full"),
    ],
)
async def test_an_api_that_refuses(chromium: Browser, status: HTTPStatus, says: str):
    """A refusal shows with what to do about it, and the page goes on when it is over."""
    host = MadeUpHost(12)
    host.status = status
    async with showing(chromium, host, allowed=(str(status.value),)) as page:
        await expect(page.get_by_role("alert")).to_contain_text(says)
        host.status = HTTPStatus.OK
        await page.get_by_role("button", name="Try now").click()
        await expect(rows(page)).to_have_count(12)
        await expect(page.get_by_role("alert")).to_have_count(0)


async def test_a_lost_connection_shows(chromium: Browser):
    """When the agent is gone, the page says since when, and how old its numbers are."""
    host = MadeUpHost(12)
    async with page_of(host) as port:
        browser = browsing(chromium, port, allowed=("ERR_",))
        page = await browser.__aenter__()
    try:
        await expect(page.get_by_role("alert")).to_contain_text("No connection")
        await expect(page.locator(".trouble")).to_contain_text("next try in")
        await expect(page.locator(".connection")).to_contain_text("not live")
    finally:
        await browser.__aexit__(None, None, None)


async def test_one_stream_and_none_while_hidden(chromium: Browser):
    """A viewer has one stream, which ends after a minute in the background and comes back."""
    host = MadeUpHost(200)
    hide = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""

    async def viewers(wanted: int) -> None:
        async with asyncio.timeout(30):
            while host.viewers != wanted:
                host.move()
                await asyncio.sleep(0.05)

    async with showing(chromium, host) as page:
        await page.clock.install()
        await expect(rows(page).first).to_be_visible()
        await page.locator(".rows").evaluate("each => each.scrollTo(0, 3000)")
        await page.get_by_role("searchbox").fill("web")
        await expect(page.locator(".guests h2 small")).to_have_text("34 of 200")
        await viewers(1)
        await page.evaluate(hide, True)
        await page.clock.fast_forward(61_000)
        await viewers(0)
        await page.evaluate(hide, False)
        await viewers(1)
        await expect(page.locator(".connection")).to_contain_text("data 1 s old")


async def test_dark_and_light(chromium: Browser):
    """The page follows the system, and its switch changes the colours, also of charts."""
    ground = "() => getComputedStyle(document.body).backgroundColor"
    async with showing(chromium, MadeUpHost(12), color_scheme="dark") as page:
        await expect(rows(page)).to_have_count(12)
        dark = await page.evaluate(ground)
        switch = page.locator("button.theme")
        await switch.click()  # dark, whatever the system says
        assert await page.evaluate(ground) == dark
        await switch.click()
        assert await page.evaluate(ground) != dark
        await page.reload()
        await expect(rows(page)).to_have_count(12)
        assert await page.evaluate(ground) != dark


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_the_heap_is_flat(chromium: Browser):
    """Five minutes of live numbers of 1,000 guests leave no more memory in use than the first."""
    host = MadeUpHost(1000)
    heaps = []
    async with showing(chromium, host) as page:
        devtools = await page.context.new_cdp_session(page)
        for second in range(300):
            host.move()
            await asyncio.sleep(1)
            if second % 60 == 59:
                await devtools.send("HeapProfiler.collectGarbage")
                heaps.append(await page.evaluate("performance.memory.usedJSHeapSize"))
        assert heaps[-1] <= heaps[0] * 1.05 + 200_000, heaps
        assert await page.evaluate(NODES) <= 3000


@pytest.mark.parametrize(
    "count", [200, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
async def test_a_real_agent(chromium: Browser, tmp_path: Path, count: int):
    """Of simulated guests the page shows, sorts, filters and opens each, and one that hangs."""
    with simulated(tmp_path, f"--domains={count}") as sim, running(tmp_path, sim.uri) as agent:
        address = await asyncio.to_thread(lambda: agent.address)
        active = sim.do("status")["active"]
        async with browsing(chromium, int(address.rpartition(":")[2])) as page:
            await expect(page.locator(".guests h2 small")).to_have_text(str(active))
            await page.locator(".rows th", has_text="Name").get_by_role("button").click()
            await expect(rows(page).first.locator("bdi")).to_have_text(
                re.compile("^instance-0000000")
            )
            await page.get_by_role("searchbox").fill("instance-0000001")
            await expect(page.locator(".guests h2 small")).to_have_text(
                re.compile(rf"^1\d of {active}$")
            )
            assert await page.evaluate(NODES) <= 3000
            running_one = rows(page).filter(has_text="running").nth(3)
            victim = await running_one.locator("bdi").text_content() or ""
            sim.do("hang", domains=[victim])
            await expect(rows(page).filter(has_text="stuck")).to_contain_text(victim)
            await page.locator(".findings a", has_text=victim).click()
            await expect(page.locator("h1")).to_contain_text("stuck")
            await page.get_by_role("link", name="Agent", exact=True).click()
            await expect(page.get_by_role("group", name="Sinks")).to_contain_text("prometheus")
            await expect(page.get_by_role("group", name="Tiers")).to_contain_text("monitor")
            sim.do("clear")
