"""The pictures of the components' pages: drawn by ``coreframe.plots``, an SVG file each.

In a repository's web view a picture is an image with colours that can be seen on light and dark.
The site puts it into the page and lets the theme choose them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from making import curves, planes

DRAWN: dict[str, dict[str, Callable[[str], str]]] = {
    "schedulers": dict.fromkeys([*curves.SCHEDULES, "joined", "stage_value"], curves.schedule),
    "losses": {
        **dict.fromkeys(curves.LOSSES, curves.over_similarity),
        **dict.fromkeys(("cosine_embedding", "cross_entropy", "mse"), curves.of_rows),
    },
    "miners": dict.fromkeys(planes.MINERS, planes.choice),
    "optimizers": dict.fromkeys(planes.OPTIMIZERS, planes.walk),
    "regularizers": dict.fromkeys(("l2", "ewc"), curves.penalty),
    "adapters": dict.fromkeys(("procrustes", "whitening"), planes.moved),
}
"""Who draws which component."""

STYLE = (
    "<style>svg{font-family:system-ui,sans-serif}.ink,.soft{color:#7b7f85}.line{color:#8886}"
    ".accent{color:#16998c}.warm{color:#d97a1f}.good{color:#4f8fd0}.bad{color:#cf4d63}</style>"
)
"""Colours of a picture that stands alone, on white as on black."""


@cache
def picture(kind: str, name: str) -> str | None:
    """Return the SVG file of a component, or None."""
    draw = DRAWN.get(kind, {}).get(name)
    if draw is None:
        return None
    head = r'<svg xmlns="http://www.w3.org/2000/svg" width="460" class="plot"'
    drawn = re.sub(r'<svg class="plot"', head, draw(name), count=1)
    return drawn.replace("</title>", f"</title>{STYLE}", 1) + "\n"


def caption(svg: str) -> str:
    """Return what a picture says of itself: the text for those who do not see it."""
    found = re.search(r"<title>(.*?)</title>", svg)
    assert found
    return found[1]
