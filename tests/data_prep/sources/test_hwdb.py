import io
import struct

import pytest

from data_prep.sources._hwdb import (
    Broken,
    Reader,
    bitmap_size,
    decode_code,
    decode_label,
    read_page_header,
    writer,
)


def reader(data: bytes) -> Reader:
    return Reader(io.BytesIO(data), len(data))


def header(lines=2, code_length=2, bits=8, magic=b"DGRHTEXT", remark=b"by hand"):
    codes = struct.pack("<20shh", b"GB".ljust(20, b"\0"), code_length, bits)
    fields = struct.pack("<iii", 100, 200, lines)
    return struct.pack("<i", 36 + len(remark)) + magic + remark + codes + fields


def test_fields_are_little_endian_and_peek_consumes_nothing():
    stream = reader(b"\x01\x02\x03\x00\x05")
    assert stream.peek(2) == b"\x01\x02"
    assert stream.unpack("HH") == (0x0201, 3)
    assert (stream.left, stream.peek(9), stream.left) == (1, b"\x05", 1)


@pytest.mark.parametrize("count", [3, -1])
def test_reader_never_asks_for_more_bytes_than_the_file_has(count):
    with pytest.raises(Broken) as error:
        reader(b"ab").take(count)
    assert error.value.reason == "truncated record"


def test_a_page_header_states_code_length_bits_and_lines():
    stream = reader(header() + b"rest")
    assert read_page_header(stream) == (2, 8, 2)
    assert stream.take(4) == b"rest"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": b"PNG DATA"}, "wrong magic"),
        ({"code_length": 0}, "malformed header"),
        ({"bits": 4}, "malformed header"),
        ({"lines": -1}, "malformed header"),
    ],
)
def test_impossible_page_header_is_broken(changes, reason):
    with pytest.raises(Broken) as error:
        read_page_header(reader(header(**changes)))
    assert error.value.reason == reason


def test_rows_of_a_bitmap_start_at_whole_bytes():
    assert bitmap_size(9, 3, 1) == 6
    assert bitmap_size(9, 3, 8) == 27
    with pytest.raises(Broken):
        bitmap_size(-1, 3, 8)


def test_codes_are_gb18030_characters():
    assert decode_code("啊".encode("gb18030")) == "啊"
    assert decode_code(b"\xa1\xaa") == "—"
    assert decode_code(b"A\0") == "A"
    assert (decode_code(b"\xff\xff"), decode_code(b"\xfd\xa3")) == ("", b"\xa3\xfd".decode("gbk"))
    assert decode_label("你好".encode("gb18030"), 2) == "你好"
    with pytest.raises(ValueError, match="stands for no character"):
        decode_code(b"\0\0")


def test_writers_are_the_numbers_that_file_names_begin_with():
    names = ["a/001-P16.dgrl", "C001-f.gnt", "page.dgr"]
    assert [writer(name) for name in names] == ["001", "C001", "page.dgr"]
