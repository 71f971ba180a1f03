"""The page about a host, rendered from its data: page.html.j2, with page.css in it.

The page is one file that needs nothing else: style and pictures are in it, it has no script, and its policy forbids it to
load anything. Rendering needs jinja2, which the controller has because ansible-core needs it; hosts get nothing of this package.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
from ansible.module_utils.llm.report import results

_HERE = Path(__file__).parent
_CODE = re.compile(r"`([^`]+)`")


def render(data: results.PageData) -> str:
    """The page as HTML. What the data says is text there and never markup; our stylesheet alone is put in as it is."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(counted=results.counted, duration=results.duration, split_code=_CODE.split)
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(page=data, style=style)
