"""A browser that shows the page and reports whatever it should not do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, Request, expect

from support.made_up_host import MadeUpHost
from support.page import page_of


CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 120_000

REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""

expect.set_options(timeout=PATIENCE_MS)


@asynccontextmanager
async def browsing(
    browser: Browser, port: int, path: str = "#/", *, allowed: tuple[str, ...] = (), **how: Any
) -> AsyncIterator[Page]:
    """
    Show the page at a port with a profile of its own.

    At the end nothing may have been written to its console, but what has an `allowed` word, and
    nothing may have been asked for elsewhere.
    """
    faults: list[str] = []
    origin = f"http://localhost:{port}/"

    def said(message: ConsoleMessage) -> None:
        if not any(word in message.text for word in allowed):
            faults.append(f"{message.type}: {message.text}")

    def asked(request: Request) -> None:
        if not request.url.startswith(origin):
            faults.append(f"asked for {request.url}")

    context = await browser.new_context(**how)
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("console", said)
        page.on("request", asked)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        await page.add_init_script(REPORT_VIOLATIONS)
        await page.goto(origin + path)
        yield page
    finally:
        await context.close()
    assert not faults


@asynccontextmanager
async def showing(
    browser: Browser,
    host: MadeUpHost,
    path: str = "#/",
    *,
    allowed: tuple[str, ...] = (),
    **how: Any,
) -> AsyncIterator[Page]:
    """Serve a made-up host, and show its page."""
    async with page_of(host) as port, browsing(browser, port, path, allowed=allowed, **how) as page:
        yield page
