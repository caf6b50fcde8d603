import json
import struct
import tarfile

import numpy as np
import pytest

from tests.helpers.sources_common import pictures, reasons, run, texts
from tests.tools.fuzz import assert_survives, mutations


def header(bits=8, code_length=2, magic=b"DGRL\0\0\0\0", note=b"a page\0", lines=1) -> bytes:
    """File header and page fields as CASIA describes them."""
    size = struct.pack("<i", 36 + len(note))
    head = size + magic + note + b"GB".ljust(20, b"\0") + struct.pack("<hh", code_length, bits)
    return head + struct.pack("<iii", 3000, 2000, lines)


def line(text: str, pixels: np.ndarray, bits=8, top=7, left=5, codes=None) -> bytes:
    """One line; `pixels` is 0 or 255 at one bit, where a set bit is white."""
    codes = [c.encode("gb18030").ljust(2, b"\0") for c in text] if codes is None else codes
    height, width = pixels.shape
    packed = pixels.tobytes() if bits == 8 else np.packbits(pixels > 127, axis=1).tobytes()
    place = struct.pack("<iiii", top, left, height, width)
    return struct.pack("<i", len(codes)) + b"".join(codes) + place + packed


def page(*lines: bytes, **fields) -> bytes:
    return header(lines=len(lines), **fields) + b"".join(lines)


def ink(width: int, height: int, seed=0) -> np.ndarray:
    """A white line with some ink of random greys."""
    chance = np.random.default_rng(seed)
    pixels = np.full((height, width), 255, np.uint8)
    pixels[2:-2, 3:7] = chance.integers(0, 255, (height - 4, 4))
    return pixels


def write(folder, files: dict[str, bytes]):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_lines_of_eight_bits_with_places_and_writers(tmp_path):
    lines = [line("重要的是，A1", ink(50, 20, 1)), line("〔二〕", ink(33, 15, 2), top=90, left=-2)]
    source = write(tmp_path / "HWDB2.0Train", {"001-P16.dgrl": page(*lines)})
    out = tmp_path / "out"
    summary, rows, rejects = run("hwdb-dgrl", source, out)
    assert texts(rows) == ["重要的是，A1", "〔二〕"] and not rejects
    assert [row.id for row in rows] == ["hwdb-dgrl-001-P16-001", "hwdb-dgrl-001-P16-002"]
    assert {row.group for row in rows} == {"001"} and summary["rows"] == {"train": 2}
    assert json.loads(rows[1].meta) == {"top": 90, "left": -2}
    for row, seed, size in ((rows[0], 1, (50, 20)), (rows[1], 2, (33, 15))):
        assert (np.asarray(pictures(out, row)[0]) == ink(*size, seed)).all()


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("width", [7, 8, 9, 17])
def test_lines_of_one_bit_show_black_ink_whichever_bit_is_ink(tmp_path, flipped, width):
    pixels = np.where(ink(width, 20) < 255, 0, 255).astype(np.uint8)
    pixels[:, 5:] = 255
    stored = 255 - pixels if flipped else pixels
    source = write(tmp_path / "in", {"001.dgrl": page(line("一", stored, bits=1), bits=1)})
    out = tmp_path / "out"
    _, rows, _ = run("hwdb-dgrl", source, out)
    assert (np.asarray(pictures(out, rows[0])[0]) == pixels).all()


def test_codes_of_the_published_kinds(tmp_path):
    codes = [b"\xb0\xa1", b"\xff\xff", b"\xfd\xa3", b"7\0", b"\xa1\xaa"]
    good = line("", ink(20, 20), codes=codes)
    bad = line("", ink(20, 20), codes=[b"\xb0\xa1", b"\x80\x80"])
    filler = line("", ink(20, 20), codes=[b"\xff\xff"])
    nothing = line("", np.full((0, 20), 255, np.uint8), codes=[b"\xb0\xa1"])
    source = write(tmp_path / "in", {"001.dgrl": page(good, bad, filler, nothing, good)})
    _, rows, rejects = run("hwdb-dgrl", source, tmp_path / "out")
    assert texts(rows) == ["啊｝7—", "啊｝7—"]
    assert reasons(rejects) == ["unknown character code", "empty text", "empty picture"]
    assert rejects[0]["where"] == "001.dgrl line 2"


def test_broken_page_is_one_reject_that_counts_its_bytes(tmp_path):
    good = line("好", ink(30, 20))
    files = {
        "1.dgrl": header(lines=3) + good,
        "2.dgrl": header(lines=2) + good + good[:40],
        "3.dgrl": header(lines=2**31 - 1) + good,
        "4.dgrl": page(good, magic=b"PNG\0\0\0\0\0"),
        "5.dgrl": page(good, bits=4),
        "6.dgrl": page(good, code_length=0),
        "7.dgrl": struct.pack("<i", -1) + page(good)[4:],
        "8.dgrl": header(lines=1) + struct.pack("<iiiii", 0, 0, 0, 60_000, 60_000),
        "9.dgrl": b"",
        "a.dgrl": header(lines=1) + struct.pack("<i", -5),
    }
    _, rows, rejects = run("hwdb-dgrl", write(tmp_path / "in", files), tmp_path / "out")
    assert texts(rows) == ["好"] * 3
    assert reasons(rejects) == [
        *["truncated record"] * 3,
        *("wrong magic", "malformed header", "malformed header", "malformed header"),
        *("truncated record", "truncated record", "malformed record"),
    ]
    assert "2 lines are lost" in rejects[0]["detail"]


def test_tar_is_read_as_its_folder_without_unsafe_members(tmp_path):
    source = write(tmp_path / "in", {"001-P1.dgrl": page(line("好", ink(30, 20)))})
    (tmp_path / "secret.dgrl").write_bytes(page(line("密", ink(30, 20))))
    with tarfile.open(tmp_path / "HWDB2.0Test.tar.gz", "w:gz") as archive:
        archive.add(source / "001-P1.dgrl", "HWDB2.0Test/001-P1.dgrl")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.dgrl")
            link.type, link.linkname = kind, "../secret.dgrl"
            archive.addfile(link)
        archive.add(source / "001-P1.dgrl", "../../002-P1.dgrl")
        archive.add(source / "001-P1.dgrl", "/abs/003-P1.dgrl")
    summary, rows, _ = run("hwdb-dgrl", tmp_path / "HWDB2.0Test.tar.gz", tmp_path / "o" / "out")
    assert texts(rows) == ["好"] * 3 and summary["rows"] == {"test": 3}
    assert sorted(row.group for row in rows) == ["001", "002", "003"]
    # Nothing was written but the dataset.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("HWDB2.0Test.tar.gz", "in", "o", "secret.dgrl")
    ]
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["out"]


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bits", [1, 8])
def test_mutated_files_give_only_rows_and_rejects(tmp_path, count, bits):
    body = page(*(line("好人 A", ink(20 + i, 16, i), bits) for i in range(3)), bits=bits)
    assert_survives("hwdb-dgrl", mutations(body, count, bits), tmp_path, "001-P1.dgrl")
