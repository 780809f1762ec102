"""Content negotiation: which of several representations a caller wants (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

# Section 12.4.2: at most three decimals.
_weight = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?").fullmatch
# A comma or a semicolon within quotes separates nothing. A quote that nobody closes goes to the end: were it looked at
# as a mere character, each of thousands would be a search for its end.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"?'
_element = re.compile(rf'(?:[^,"]|{_QUOTED})+').findall
_part = re.compile(rf'(?:[^;"]|{_QUOTED})+').findall


def preferred(headers: Iterable[str], offers: Sequence[str]) -> str | None:
    """Return the media type of ``offers`` that a caller likes most, the first of them where there is nothing to choose.

    Args:
        headers: the values of every Accept header. None at all, or nothing in them, takes anything.
        offers: media types without parameters, in lower case. Of two that are as welcome, the one that is named more
            precisely is taken, else the earlier one. Parameters of what is asked for are passed over.

    Returns:
        None where none of them will do.

    """
    ranges = [found for header in headers for each in _element(header) if (found := _range(each))]
    if not ranges:
        return offers[0]
    best: str | None = None
    best_rank = (0.0, 0)
    for offer in offers:
        # The most precise range that fits says how welcome it is; of two, the first.
        fitting = [(precision, weight) for name, precision, weight in ranges if _fits(name, offer)]
        precision, weight = max(fitting, key=lambda one: one[0], default=(0, 0.0))
        if weight > 0 and (weight, precision) > best_rank:
            best, best_rank = offer, (weight, precision)
    return best


def _range(text: str) -> tuple[str, int, float] | None:
    """Read a media range: its name, how precise it is, and its weight; None of what is none."""
    name, *parameters = [part.strip() for part in _part(text)] or [""]
    kind, slash, subtype = name.lower().partition("/")
    if not slash or not kind or not subtype or (kind == "*" and subtype != "*"):
        return None
    weight = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            if _weight(value.strip()) is None:
                return None
            weight = float(value)
    return f"{kind}/{subtype}", 3 - (kind == "*") - (subtype == "*"), weight


def _fits(name: str, offer: str) -> bool:
    kind, _, subtype = name.partition("/")
    return name == offer or (subtype == "*" and kind in {"*", offer.partition("/")[0]})
