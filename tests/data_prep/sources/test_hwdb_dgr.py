import struct

import numpy as np
import pytest

from tests.data_prep.sources.test_hwdb_dgrl import header, ink, write
from tests.helpers.sources_common import pictures, reasons, run, texts
from tests.tools.fuzz import assert_survives, mutations


def character(text: str, top: int, left: int, pixels: np.ndarray, bits=8) -> bytes:
    height, width = pixels.shape
    packed = pixels.tobytes() if bits == 8 else np.packbits(pixels > 127, axis=1).tobytes()
    code = text.encode("gb18030").ljust(2, b"\0") if text else b"\xff\xff"
    return code + struct.pack("<hhhh", top, left, height, width) + packed


def page(*lines: list[bytes], **fields) -> bytes:
    body = b"".join(struct.pack("<i", len(line)) + b"".join(line) for line in lines)
    return header(lines=len(lines), magic=b"DGR\0\0\0\0\0", **fields) + body


def test_a_line_is_the_union_of_its_characters(tmp_path):
    first, two = ink(10, 12, 1), ink(9, 20, 2)
    # The second character overlaps the first by two columns and starts three rows above it.
    line = [
        character("你", 100, 40, first),
        character("", 0, 0, np.zeros((0, 0), np.uint8)),
        character("好", 97, 48, two),
    ]
    source = write(tmp_path / "in", {"001-P1.dgr": page(line)})
    out = tmp_path / "out"
    _, rows, rejects = run("hwdb-dgr", source, out)
    assert texts(rows) == ["你好"] and not rejects and rows[0].group == "001"
    expected = np.full((20, 17), 255, np.uint8)
    expected[3:15, 0:10] = first
    expected[:, 8:17] = np.minimum(expected[:, 8:17], two)
    assert (np.asarray(pictures(out, rows[0])[0]) == expected).all()


@pytest.mark.parametrize("flipped", [False, True])
def test_ink_bit_is_decided_over_all_characters(tmp_path, flipped):
    # A stroke fills its whole bitmap: alone it would be taken for paper.
    stroke, blank = np.zeros((3, 9), np.uint8), np.full((40, 9), 255, np.uint8)
    line = [(stroke, 0), (blank, 20)]
    body = page([character("一", 0, x, 255 - p if flipped else p, 1) for p, x in line], bits=1)
    out = tmp_path / "out"
    _, rows, _ = run("hwdb-dgr", write(tmp_path / "in", {"1.dgr": body}), out)
    pixels = np.asarray(pictures(out, rows[0])[0])
    assert pixels.shape == (40, 29)
    assert (pixels[:3, :9] == 0).all() and (pixels == 0).sum() == 27


def test_characters_that_claim_to_lie_far_apart_are_a_reject(tmp_path):
    far = [character("你", -32768, -32768, ink(9, 9)), character("好", 32000, 32000, ink(9, 9))]
    near = [character("你", 0, 0, ink(9, 9))]
    body = page(far, [], near, [character("", 0, 0, ink(9, 9))])
    _, rows, rejects = run("hwdb-dgr", write(tmp_path / "in", {"1.dgr": body}), tmp_path / "out")
    assert texts(rows) == ["你"]
    assert reasons(rejects) == ["image too large", "empty picture", "empty text"]


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bits", [1, 8])
def test_mutated_files_give_only_rows_and_rejects(tmp_path, count, bits):
    line = [character("好", 5, 12 * i, ink(10, 12, i), bits) for i in range(3)]
    body = page(line, line, bits=bits)
    assert_survives("hwdb-dgr", mutations(body, count, bits), tmp_path, "001.dgr")
