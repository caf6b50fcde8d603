"""Streaming JSON parser: elements of a large array one by one, in constant memory."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import JsonFloat, Reject, refuse_constant

CHUNK = 2**20
MAX_ELEMENT = 16 * 2**20  # characters of one element
ENDINGS = (*" \t\r\n,]}",)
_DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=JsonFloat)


class _Text:
    """Text stream with a window that grows only for an element that does not fit in it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.window, self.at, self.ended = "", 0, False

    def more(self) -> bool:
        """Read another chunk; False at the end."""
        if self.ended:
            return False
        if len(self.window) - self.at > MAX_ELEMENT:
            raise ValueError(f"an element is longer than {MAX_ELEMENT} characters, or broken")
        # Doubles the window, so that a long element is parsed again only a few times.
        data = self.stream.read(max(CHUNK, len(self.window) - self.at))
        self.ended = not data
        self.window = self.window[self.at :] + self.decoder.decode(data, final=self.ended)
        self.at = 0
        return True

    def next(self) -> str:
        """Peek at the next character that is no white space; "" at the end."""
        while True:
            while self.at < len(self.window):
                if self.window[self.at] not in " \t\r\n":
                    return self.window[self.at]
                self.at += 1
            if not self.more():
                return ""

    def skip(self, expected: str) -> None:
        """Skip one of the expected characters."""
        character = self.next()
        if not character or character not in expected:
            raise ValueError(f"{character or 'the end'!r} stands where one of {expected!r} should")
        self.at += 1

    def value(self) -> Any:
        """Parse the next value."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.window, self.at)
                # A number may continue after the window's end: 1 may be 12, 1. may be 1.5.
                whole = not isinstance(value, int | float) or self.window[end : end + 1] in ENDINGS
                if (whole and end < len(self.window)) or not self.more():
                    self.at = end
                    return value
            except RecursionError:
                raise ValueError("JSON is nested too deeply") from None
            except json.JSONDecodeError as error:
                if not self.more():
                    raise ValueError(error.msg) from None


def json_records(
    tree: Tree, name: str, key: str | None = None, unit: str = "record"
) -> Iterator[tuple[int, Any]]:
    """(number from 0, element) of a label file's array; broken JSON ends it with a Reject."""
    number = -1
    with tree.open_text(name) as stream:
        try:
            for number, record in enumerate(json_elements(stream, key)):
                yield number, record
        except ValueError as error:
            yield number + 1, Reject(f"{name} {unit} {number + 1}", "malformed JSON", str(error))


def json_elements(stream: BinaryIO, key: str | None = None) -> Iterator[Any]:
    """Parse the elements of a top-level array, or of the array under a top-level object's key.

    Raises:
        ValueError: the text is no such JSON; the elements before the error were yielded.
    """
    text = _Text(stream)
    if key is None:
        yield from _array(text)
        return
    text.skip("{")
    while text.next() != "}":
        name = text.value()
        text.skip(":")
        if name == key:
            yield from _array(text)
            return
        if text.next() == "[":
            for _ in _array(text):
                pass
        else:
            text.value()
        if text.next() != "}":
            text.skip(",")
    raise ValueError(f"there is no array under {key!r}")


def json_members(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Parse the (name, value) pairs of a top-level object, one by one.

    Raises:
        ValueError: the text is no such JSON; the members before the error were yielded.
    """
    text = _Text(stream)
    text.skip("{")
    more = text.next() != "}"
    while more:
        name = text.value()
        if not isinstance(name, str):
            raise ValueError(f"{name!r} stands where a name should")
        text.skip(":")
        yield name, text.value()
        more = text.next() != "}"
        if more:
            text.skip(",")
    text.skip("}")


def _array(text: _Text) -> Iterator[Any]:
    text.skip("[")
    more = text.next() != "]"
    while more:
        yield text.value()
        more = text.next() != "]"
        if more:
            text.skip(",")
    text.skip("]")
