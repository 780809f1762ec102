"""What can be told of a page's looks and of what assistive technology is given of it, without eyes."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from api.harness import ROOT

from .visit import Visit

SCREENSHOTS: Final = ROOT / "build" / "screenshots"

_CONTROLS: Final = frozenset(
    {
        "button",
        "link",
        "textbox",
        "spinbutton",
        "combobox",
        "checkbox",
        "radio",
        "searchbox",
        "slider",
        "switch",
    }
    | {"progressbar", "dialog", "DisclosureTriangle", "region", "form", "image"}
)

# WCAG 2.2, success criterion 1.4.3 and its definitions of contrast ratio and relative luminance: 3:1 for large text
# (24 px, or bold from 18.66 px on), 4.5:1 for the rest.
_FAINT: Final = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (value) => { const c = value / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const over = (front, back) => {
    const alpha = front[3] ?? 1;
    return [0, 1, 2].map((i) => front[i] * alpha + back[i] * (1 - alpha));
  };
  const back = (node) => {
    if (!node) return [255, 255, 255];
    const own = numbers(getComputedStyle(node).backgroundColor);
    return (own[3] ?? 1) === 1 ? own : over(own, back(node.parentElement));
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest(".visually-hidden, .skip, option")) continue;
    const style = getComputedStyle(node);
    const behind = back(node);
    const [one, two] = [luminance(over(numbers(style.color), behind)), luminance(behind)];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return faint;
}"""

_WIDE: Final = """() => {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide`);
  for (const node of document.body.querySelectorAll("*")) {
    if (!node.checkVisibility() || node.closest(".scroll, pre, .visually-hidden, .skip")) continue;
    const box = node.getBoundingClientRect();
    if (box.right > root.clientWidth + 0.5 || box.left < -0.5) found.push(node.outerHTML.slice(0, 90));
  }
  return found;
}"""

_TWICE: Final = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  return ids.filter((id, index) => ids.indexOf(id) !== index);
}"""


def check_looks(visit: Visit, name: str = "") -> None:
    """Fail where text is too faint or something stands out of the window; keep a screenshot under a name."""
    if name:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        file = SCREENSHOTS / f"{name}-{visit.width}-{visit.scheme}.png"
        # A dialog belongs to the window, everything else to the page.
        page = visit.page
        dialog = page.get_by_role("dialog").is_visible()
        if not dialog:
            page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=file, full_page=not dialog)
    wide = visit.page.evaluate(_WIDE)
    assert not wide, wide
    faint = visit.page.evaluate(_FAINT)
    assert not faint, faint


def check_access(visit: Visit) -> None:
    """Fail where a control has no name, headings skip a level, or a landmark is missing or there twice."""
    page = visit.page
    assert not page.evaluate(_TWICE), "an id is there twice"
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title()
    nodes = list(_tree(visit))
    nameless = [node for node in nodes if node["role"]["value"] in _CONTROLS and not _name(node)]
    assert not nameless, nameless
    roles = [node["role"]["value"] for node in nodes]
    assert roles.count("main") == 1
    assert roles.count("banner") == 1
    assert "navigation" in roles
    levels = [_level(node) for node in nodes if node["role"]["value"] == "heading"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def _tree(visit: Visit) -> Iterator[dict[str, Any]]:
    """Yield what Chromium hands to assistive technology, in the order of the page."""
    session = visit.context.new_cdp_session(visit.page)
    found = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    by_id = {node["nodeId"]: node for node in found}

    def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not node["ignored"]:
            yield node
        for child in node.get("childIds", ()):
            if child in by_id:
                yield from walk(by_id[child])

    yield from walk(found[0])


def _name(node: dict[str, Any]) -> str:
    return str(node.get("name", {}).get("value", "")).strip()


def _level(node: dict[str, Any]) -> int:
    return next(int(each["value"]["value"]) for each in node["properties"] if each["name"] == "level")
