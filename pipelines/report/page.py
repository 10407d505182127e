"""Renders the templates of this folder as HTML pages, with escaping and one stylesheet inside each page."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

LONGEST_TEXT = 600


def render(template: str, **values: Any) -> str:
    """Renders a template of `templates/` as a page without scripts that loads nothing from another host.

    Args:
        template: file name, for example "run.html".
        values: variables of the template. All texts are escaped except `markupsafe.Markup`.
    """
    return _environment().get_template(template).render(**values)


def visible(text: str) -> str:
    """The text for a page: at most `LONGEST_TEXT` characters, control characters replaced."""
    cut = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" and char not in "\t\n\r" else char for char in cut)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vrshq.pipelines.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["visible"] = visible
    return environment
