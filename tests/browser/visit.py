"""One person's browser window, and everything that it has to complain of."""

from typing import Final, Literal, cast

from api.harness import CODE_MARK, Service
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

_LISTEN: Final = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP violation: ${event.violatedDirective} ${event.blockedURI}`));
"""
_STATUS: Final = "Failed to load resource: the server responded with a status of "
_STORED: Final = "() => [localStorage.length, sessionStorage.length, document.cookie.length]"

MOST_TABS: Final = 80


class Visit:
    """A window with a page of the service in it.

    Attributes:
        statuses: those above 399 that the test wants to see; the browser writes an error to its console for each.
        offline: whether requests may fail.

    """

    def __init__(self, browser: Browser, service: Service, *, width: int, scheme: str) -> None:
        self.service = service
        self.base = f"http://127.0.0.1:{service.port}"
        self.width = width
        self.scheme = scheme
        self.statuses: set[int] = set()
        self.offline = False
        self._complaints: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=cast("Literal['light', 'dark']", scheme),
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(_LISTEN)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self._complaints.append(f"exception: {error}"))
        self.page.on("request", self._asked)
        self.page.on("requestfailed", self._failed)

    def open(self, path: str) -> Page:
        """Go to a path of the service."""
        self.page.goto(self.base + path)
        return self.page

    def sign_in(self, campaign: str, token: str | None = None) -> Page:
        """Go to the console and sign in by its form."""
        page = self.open("/console")
        page.get_by_label("Token").fill(token or self.service.token)
        page.locator("#first-campaign").fill(campaign)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Campaign {campaign}")
        return page

    def dress(self, scheme: Literal["light", "dark"]) -> None:
        """Prefer another colour scheme from now on, as a system does when the evening comes."""
        self.scheme = scheme
        self.page.emulate_media(color_scheme=scheme)

    def tab_to(self, target: Locator, *, key: str = "Tab") -> None:
        """Press Tab until the target has the focus, and see that it shows."""
        for _ in range(MOST_TABS):
            self.page.keyboard.press(key)
            if target.evaluate("(node) => node === document.activeElement"):
                width = target.evaluate("(node) => parseFloat(getComputedStyle(node).outlineWidth)")
                assert width >= 2, "the focus does not show"
                return
        raise AssertionError(f"{target} is not reached by {key}")

    def check(self) -> None:
        """Fail if the browser had anything to complain of, or if a code is where none belongs."""
        assert not self._complaints, "\n".join(self._complaints)
        assert CODE_MARK not in self.page.url
        if self.page.url.startswith(self.base):
            assert self.page.evaluate(_STORED) == [0, 0, 0], "something is stored in the browser"

    def close(self) -> None:
        """Close the window and forget it."""
        self.context.close()

    def _said(self, message: ConsoleMessage) -> None:
        text = message.text
        expected = text.startswith(_STATUS) and any(str(status) in text for status in self.statuses)
        if self.offline and text.startswith("Failed to load resource: net::"):
            expected = True
        if message.type in {"error", "warning"} and not expected:
            self._complaints.append(f"console: {text} {message.location}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.base + "/", f"blob:{self.base}/")):
            self._complaints.append(f"a request to another host: {request.url}")

    def _failed(self, request: Request) -> None:
        # A stream that the page itself ends, and a download, are told as aborted.
        if not self.offline and request.failure != "net::ERR_ABORTED":
            self._complaints.append(f"failed: {request.method} {request.url} {request.failure}")
