"""One page with the figures and plots of a benchmark: everything in one file, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 0.9rem; } td, th { border: 1px solid #bbb; padding: 0.2rem 0.6rem; }
pre { font-size: 0.85rem; overflow-x: auto; } img { max-width: 100%; } .scroll { overflow-x: auto; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } img { background: #fff; } }
"""


def page(title: str, text: str, plots: Sequence[Path]) -> str:
    """A page of `text`, which is Markdown with tables, and of the plots that exist."""
    from markdown_it import MarkdownIt

    # What the text quotes, a log line or an error, is never taken for HTML.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    shown = "".join(_image(path) for path in plots if path.is_file())
    name = html.escape(title)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{body}{shown}</body></html>\n"


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'
