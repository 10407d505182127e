"""A Chromium of the system, driven through Playwright, whose pages are watched: what they log, and whom they call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Root has no sandbox. No name but this machine's own is ever looked up.
_ARGUMENTS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none. Nothing is downloaded."""
    found = os.environ.get("VRSHQ_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine; apt-get install chromium, or set VRSHQ_CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install vrshq[dev]")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of a context of its own.

    Attributes:
        page: Playwright's page.
        faults: errors and warnings of its console, exceptions of its scripts, and requests that failed.
        hosts: hosts and ports of all its requests.
    """

    def __init__(self, browser: Browser, **context: Any) -> None:
        self._context = browser.new_context(**context)
        self.page: Page = self._context.new_page()
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        self.page.set_default_timeout(60_000)
        self.page.on(
            "console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", lambda answer: self.faults.append(answer.url) if answer.status >= 400 else None)
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _failed(self, request: Request) -> None:
        if "ERR_ABORTED" not in str(request.failure):  # a page that is left cancels its requests
            self.faults.append(f"{request.url}: {request.failure}")

    def close(self) -> None:
        """Closes the page and forgets its cookies and storage."""
        self._context.close()
