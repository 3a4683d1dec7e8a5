"""The parts of a report's page as a reader's browser takes them, found by the standard library's parser."""

import base64
import json
import zlib
from html.parser import HTMLParser

import numpy as np


class Parts(HTMLParser):
    """Elements with their attributes, the text of each script and style by its id, and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.held: dict[str, str] = {}
        self.shown = ""
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.elements.append((tag, given))
        if tag in ("script", "style"):
            self._in = given.get("id", tag)
            self.held[self._in] = ""

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._in = ""

    def handle_data(self, text):
        if self._in:
            self.held[self._in] += text
        else:
            self.shown += text

    @property
    def data(self):
        return json.loads(self.held["data"], parse_constant=lambda name: pytest_fail(name))

    def block(self, name: str, dtype: str) -> np.ndarray:
        return np.frombuffer(zlib.decompress(base64.b64decode(self.held[f"b-{name}"])), dtype=dtype)


def pytest_fail(name):
    raise AssertionError(f"{name} is no JSON")
