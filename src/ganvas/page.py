"""What the pages that ganvas writes share: their style, light and dark, the frame of a page, a titled picture.

A page is one file that needs nothing else: no script, no address, its pictures inside. Never imports torch.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

from ganvas.files import storage_errors, write_bytes

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #636368; --ground: #fafafa; --card: #fff; --line: #e3e3e6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f1f1f3; --soft: #a3a3a9; --ground: #161618; --card: #202023; --line: #37373d }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 75rem; padding: 2rem 1rem 4rem; background: var(--ground); color: var(--ink);
       font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
p { color: var(--soft); margin: .3rem 0 1.5rem }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.25rem }
figure { margin: 0; min-width: 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
         border-radius: .6rem }
figcaption { margin-bottom: .6rem; font-weight: 600; overflow-wrap: anywhere }
figcaption small { font-weight: 400; color: var(--soft) }
img { width: 100%; height: auto; display: block; image-rendering: pixelated }
table { border-collapse: collapse; margin-top: 2rem } th { text-align: left; padding-right: 2rem; font-weight: 400;
        color: var(--soft); vertical-align: top } td { overflow-wrap: anywhere }
"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole page: `body` is HTML, `title` is text, `style` is added to the common one."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>
{body}
</body></html>
"""


def figure(title: str, note: str, content: str) -> str:
    """A card: `title` and `note` are text, and may both be empty; `content` is HTML."""
    caption = f"<figcaption>{html.escape(title)} <small>{html.escape(note)}</small></figcaption>"
    return f"<figure>{caption if title or note else ''}{content}</figure>"


def inline(data: bytes, kind: str, alt: str = "", css: str = "") -> str:
    """An `img` element with its data inside; `kind` is png, jpeg or webp, `alt` is text, `css` a class of our own."""
    named = f' class="{css}"' if css else ""
    return f'<img alt="{html.escape(alt)}"{named} src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def write_page(path: Path, page: str) -> None:
    """Write a page, its folder too where missing; one from before is replaced. Raises StorageError."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode("utf-8", "replace"))
