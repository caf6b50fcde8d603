"""Encodings: detects those of label files and of names in archives, and reads files as UTF-8.

A file is UTF-8 or UTF-16, or one of the older encodings of Chinese, Korean and Japanese if it
decodes as one of them only: most short texts decode as several, to different words. In a long text
rare characters rule an encoding out.
"""

import codecs
import io
import unicodedata
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, BinaryIO

from data_prep.dataset.schema import DataError, FileRefused

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 2**20
LEGACY = ("gbk", "big5", "cp949", "cp932")
# Tried for names in archives that state no encoding.
NAME_ENCODINGS = ("utf-8", *LEGACY)
PLAUSIBLE = 0.8  # the least share of common characters in a text that somebody wrote
IMPLAUSIBLE, LONG = 0.6, 40  # a share below it rules an encoding out, from so many characters on
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def encoding_of(
    read: Callable[[], Iterable[bytes]], name: str, preferred: str | None = None
) -> str:
    """Detect the encoding of a file; "utf-8" also where only single lines are broken.

    Args:
        read: returns the file's lines, from the first at each call.
        name: of the file, for the message.
        preferred: the encoding of a file that is not UTF-8, instead of detection.

    Raises:
        FileRefused: the file decodes as several older encodings.
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
    fits = {encoding: _Fit(encoding) for encoding in LEGACY}
    for line in read():
        if not line.isascii():
            fits = {encoding: fit for encoding, fit in fits.items() if fit.decodes(line)}
    fits = {encoding: fit for encoding, fit in fits.items() if not fit.ruled_out()}
    if not any(fit.plausible() for fit in fits.values()):
        return "utf-8"
    if len(fits) == 1:
        return next(iter(fits))
    raise FileRefused(
        f"{name} is not UTF-8 and decodes as {' and '.join(fits)}, as different texts; name its "
        f"encoding by --encoding, such as --encoding {next(iter(fits))}."
    )


class _Fit:
    """Counts the characters of lines in an encoding, and those that are common in it."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.characters = self.common = 0

    def decodes(self, line: bytes) -> bool:
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
        """Whether so few characters of a long text are common that nobody wrote it."""
        return self.characters >= LONG and self.common < IMPLAUSIBLE * self.characters

    def plausible(self) -> bool:
        """Whether enough characters are common for a text that somebody wrote."""
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
    """Stream that re-encodes another one as UTF-8; bytes that do not decode stay as they are."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        # Half a pair of UTF-16 is kept as such, for `is_unicode` to find.
        self.errors = "surrogatepass" if encoding == "utf-16" else "surrogateescape"
        self.decoder = codecs.getincrementaldecoder(encoding)(self.errors)
        self.stream, self.waiting, self.ended = stream, b"", False

    def readable(self) -> bool:
        """True, as of every stream that is read."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill the buffer with UTF-8; 0 at the end."""
        while not self.waiting and not self.ended:
            data = self.stream.read(CHUNK)
            self.ended = not data
            try:
                text = self.decoder.decode(data, final=self.ended)
                self.waiting = text.encode("utf-8", self.errors)
            except UnicodeError:
                self.waiting, self.ended = b"\xff", True  # no UTF-8: the line becomes a reject
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self.waiting))
        view[:count], self.waiting = self.waiting[:count], self.waiting[count:]
        return count

    def close(self) -> None:
        """Close the stream below, too."""
        self.stream.close()
        super().close()


def as_utf8(stream: BinaryIO, encoding: str) -> BinaryIO:
    """Re-encode a stream of an encoding as UTF-8."""
    return stream if encoding == "utf-8" else io.BufferedReader(_Recoded(stream, encoding), CHUNK)


# --- names in archives


def name_encoding(names: list[bytes], encodings: tuple[str, ...], path: str) -> str | None:
    """Detect the encoding of an archive's names that state none; None where none of several fits.

    Args:
        names: as bytes.
        encodings: candidates; UTF-8 is taken where it fits all names.
        path: of the archive, for the message.

    Raises:
        DataError: several others fit, or `--encoding` does not.
    """
    fits = [encoding for encoding in encodings if all(_decodes(name, encoding) for name in names)]
    shown = names[0][:60]
    if not fits and encodings != NAME_ENCODINGS:
        raise DataError(
            f"{path} has file names that are neither {' nor '.join(encodings)}, such as {shown!r}; "
            "name their encoding with --encoding."
        )
    if len(fits) > 1 and fits[0] != "utf-8":
        readings = ", ".join(
            f"{encoding} {shown.decode(encoding, 'replace')!r}" for encoding in fits
        )
        raise DataError(
            f"{path} does not say how its file names are encoded, and several encodings fit them "
            f"all: {readings}; name the right one with --encoding."
        )
    return fits[0] if fits else None


def _decodes(name: bytes, encoding: str) -> bool:
    try:
        text = name.decode(encoding)
    except UnicodeDecodeError:
        return False
    # No name holds control characters, private ones or unassigned ones.
    return encoding == "utf-8" or not {"Cc", "Co", "Cn"} & set(map(unicodedata.category, text))
