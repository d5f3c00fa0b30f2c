"""What all pages share: a page stands alone, text cannot become markup, and it reads in light and in dark."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganvas.errors import StorageError
from ganvas.page import STYLE, document, figure, inline, write_page


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text outside of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data


@given(st.text(), st.text(), st.text())
def test_text_cannot_become_markup(title: str, note: str, alt: str) -> None:
    page = Tags(figure(title + "<b>", note + '"><script>', inline(b"x", "png", alt + '" onerror="x')))
    assert [tag for tag, _ in page.found] == ["figure", "figcaption", "small", "img"]
    assert set(page.found[-1][1]) == {"alt", "src"}


def test_a_document_is_whole_and_stands_alone() -> None:
    page = document("a </title><script> & b", "<p>here</p>", "p { color: red }")
    tags = Tags(page)
    assert page.startswith("<!doctype html>") and "<p>here</p>" in page and "p { color: red }" in page
    assert [tag for tag, _ in tags.found] == ["html", "head", "meta", "meta", "title", "style", "body", "p"]
    assert tags.found[0][1] == {"lang": "en"} and ("meta", {"charset": "utf-8"}) in tags.found
    assert not re.search(r"url\(|@import|https?:", page)


def test_a_picture_is_inside_its_element() -> None:
    ((tag, attributes),) = Tags(inline(b"\x89PNG", "png", "a disc", css="small")).found
    assert tag == "img" and attributes["alt"] == "a disc" and attributes["class"] == "small"
    kind, data = str(attributes["src"]).split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == b"\x89PNG"
    assert "class" not in Tags(inline(b"", "webp")).found[0][1]


def test_a_card_without_a_title_has_no_caption() -> None:
    assert figure("", "", "<p>x</p>") == "<figure><p>x</p></figure>"


def luminance(colour: str) -> float:
    """Relative luminance of `#rgb` or `#rrggbb` (WCAG 2.1)."""
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colours(style: str) -> tuple[dict[str, str], dict[str, str]]:
    """The named colours of a style, in light and in dark."""
    light, dark = {}, {}
    for part in style.split("@media (prefers-color-scheme: dark)"):
        target = dark if light else light
        target |= dict(re.findall(r"(--[\w]+): (#[0-9a-f]{3,6})", part))
    return light, dark


def test_text_can_be_read_in_light_and_in_dark() -> None:
    for named in colours(STYLE):
        assert {"--ink", "--soft", "--ground", "--card"} <= set(named)
        for text in ("--ink", "--soft"):
            for ground in ("--ground", "--card"):
                assert contrast(named[text], named[ground]) >= 4.5, (text, ground)


def test_colours_of_the_report_can_be_told_from_the_ground() -> None:
    from ganvas.evaluate.style import STYLE as REPORT

    for part in REPORT.split(":root {")[1:]:
        named = dict(re.findall(r"(--[\w]+): (#[0-9a-f]{3,6})", part.split("}")[0]))
        is_dark = luminance(next(iter(named.values()))) > 0.25
        card = colours(STYLE)[is_dark]["--card"]
        assert named and all(contrast(colour, card) >= 4.5 for colour in named.values()), named


def test_a_page_is_written_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_page(path, "first")
    write_page(path, "Fréchet \udcff")
    assert path.read_text("utf-8") == "Fréchet ?", "a file name that is no text does not stop a page"
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        write_page(tmp_path / "file" / "page.html", "x")
    assert "\n" not in str(caught.value)
