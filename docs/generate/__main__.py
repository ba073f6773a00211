"""Writes the generated pages: `make reference`."""

from __future__ import annotations

from generate.pages import DOCS, pages

if __name__ == "__main__":
    for _name, _text in pages().items():
        _path = DOCS / _name
        _path.parent.mkdir(exist_ok=True)
        _path.write_text(_text, "utf-8")
