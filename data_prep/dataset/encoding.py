"""Finds the encoding of a label file, and reads a file in any encoding as UTF-8.

A file is UTF-8 or UTF-16, or as a whole one of the older encodings of Chinese, Korean and Japanese,
if it decodes as one of them only: most short texts decode as several, as other words. In a long one
characters that hardly anybody writes rule an encoding out.
"""

import codecs
import io
from collections.abc import Callable, Iterable
from typing import BinaryIO

from data_prep.dataset.schema import FileRefused

CHUNK = 2**20
LEGACY = ("gbk", "big5", "cp949", "cp932")
PLAUSIBLE = 0.8  # share of a text's characters that its encoding's common part holds
IMPLAUSIBLE, LONG = 0.6, 40  # share that is too small for a text, in so many characters
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(
    read: Callable[[], Iterable[bytes]], name: str, preferred: str | None = None
) -> str:
    """The encoding of a file; "utf-8" also where only single lines are broken.

    Args:
        read: gives the file's lines, each time from the first.
        name: of the file, for the message.
        preferred: taken for a file that is not UTF-8, without a look at the others.

    Raises:
        FileRefused: it decodes as several older encodings; the message says what to do.
    """
    broken = sound = 0
    for number, line in enumerate(read()):
        if number == 0:
            for mark, encoding in MARKS.items():
                if line.startswith(mark):
                    return encoding
        if not line.isascii():
            try:
                line.decode("utf-8")
                sound += 1
            except UnicodeDecodeError:
                broken += 1
    if broken <= sound:
        return "utf-8"
    if preferred:
        return preferred
    fits = {one: _Fit(one) for one in LEGACY}
    for line in read():
        if not line.isascii():
            fits = {one: fit for one, fit in fits.items() if fit.takes(line)}
    fits = {one: fit for one, fit in fits.items() if not fit.ruled_out()}
    if not any(fit.plausible() for fit in fits.values()):
        return "utf-8"
    if len(fits) == 1:
        return next(iter(fits))
    raise FileRefused(
        f"{name} is not UTF-8 and decodes as {' and '.join(fits)}, as different texts; name its "
        f"encoding by --encoding, such as --encoding {next(iter(fits))}."
    )


class _Fit:
    """Whether lines decode in an encoding, and how many of their characters are common in it."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.characters = self.common = 0

    def takes(self, line: bytes) -> bool:
        """Count a line's characters; False where it does not decode."""
        try:
            text = line.decode(self.encoding)
        except UnicodeDecodeError:
            return False
        for character in text:
            if not character.isascii():
                self.characters += 1
                self.common += _is_common(self.encoding, character.encode(self.encoding))
        return True

    def ruled_out(self) -> bool:
        """Whether the lines are long enough to tell that nobody wrote such a text."""
        return self.characters >= LONG and self.common < IMPLAUSIBLE * self.characters

    def plausible(self) -> bool:
        """Whether the lines look like a text that somebody wrote."""
        return self.common >= PLAUSIBLE * self.characters


def _is_common(encoding: str, code: bytes) -> bool:
    """Whether a character is of GB 2312, KS X 1001, or the first levels of Big5 or JIS X 0208."""
    if len(code) != 2:
        return False
    if encoding in ("gbk", "cp949"):
        return min(code) >= 0xA1
    last = 0xC6 if encoding == "big5" else 0x97
    return code[0] <= last


class _Recoded(io.RawIOBase):
    """A stream of another encoding as UTF-8; bytes that do not decode stay as they are."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        # Half a pair of UTF-16 is kept as such, for `is_unicode` to find.
        self.errors = "surrogatepass" if encoding == "utf-16" else "surrogateescape"
        self.decoder = codecs.getincrementaldecoder(encoding)(self.errors)
        self.stream, self.waiting, self.ended = stream, b"", False

    def readable(self) -> bool:
        """True, as for every stream to read from."""
        return True

    def readinto(self, buffer: bytearray) -> int:
        """Fill the buffer with UTF-8; 0 at the end."""
        while not self.waiting and not self.ended:
            data = self.stream.read(CHUNK)
            self.ended = not data
            try:
                text = self.decoder.decode(data, final=self.ended)
                self.waiting = text.encode("utf-8", self.errors)
            except UnicodeError:
                self.waiting, self.ended = b"\xff", True  # no UTF-8: the line becomes a reject
        count = min(len(buffer), len(self.waiting))
        buffer[:count], self.waiting = self.waiting[:count], self.waiting[count:]
        return count

    def close(self) -> None:
        """Close the stream below, too."""
        self.stream.close()
        super().close()


def as_utf8(stream: BinaryIO, encoding: str) -> BinaryIO:
    """A stream of an encoding as a stream of UTF-8."""
    return stream if encoding == "utf-8" else io.BufferedReader(_Recoded(stream, encoding), CHUNK)
