import struct
import zipfile

import numpy as np
import pytest

from tests.helpers.sources_common import pictures, reasons, run, texts
from tests.tools.fuzz import assert_survives, mutations


def record(code: bytes, width=6, height=9, value=40, size=None, cut=None) -> bytes:
    """One record as CASIA describes it: size, tag, width, height, bitmap."""
    pixels = bytes([255]) * (width * height - 1) + bytes([value])
    head = struct.pack("<I", size if size is not None else 10 + width * height)
    data = head + code + struct.pack("<HH", width, height) + pixels
    return data[:cut]


def write(folder, files: dict[str, bytes]):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_characters_codes_and_writers(tmp_path):
    codes = ["啊".encode("gbk"), b"A\0", "—".encode("gb18030"), b"\xfd\xa3", "镕".encode("gbk")]
    body = b"".join(record(code, 5 + i, 8, value=10 * i) for i, code in enumerate(codes))
    source = write(tmp_path / "HWDB1.1trn_gnt", {"1001-f.gnt": body, "C002-f.gnt": record(b"B\0")})
    out = tmp_path / "out"
    summary, rows, rejects = run("hwdb-gnt", source, out)
    assert texts(rows) == ["啊", "A", "—", "｝", "镕", "B"] and not rejects
    assert [row.group for row in rows] == ["1001"] * 5 + ["C002"]
    assert summary["rows"] == {"train": 6} and rows[0].id == "hwdb-gnt-1001-f-00001"
    for index, row in enumerate(rows[:5]):
        pixels = np.asarray(pictures(out, row)[0])
        assert pixels.shape == (8, 5 + index) and pixels.dtype == np.uint8
        assert pixels[-1, -1] == 10 * index and (pixels.ravel()[:-1] == 255).all()


def test_parts_given_apart_keep_their_splits_and_share_writers(tmp_path):
    train = write(tmp_path / "HWDB1.1trn_gnt", {"1001-f.gnt": record(b"A\0") + record(b"B\0")})
    with zipfile.ZipFile(tmp_path / "HWDB1.1tst_gnt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1241-f.gnt", record(b"C\0"))
    test = tmp_path / "HWDB1.1tst_gnt.zip"
    summary, rows, _ = run("hwdb-gnt", [train, test], tmp_path / "out")
    assert summary["rows"] == {"train": 2, "test": 1}
    assert [row.group for row in rows] == ["1001", "1001", "1241"]
    assert len({row.id for row in rows}) == 3


def test_record_with_a_wrong_size_is_one_reject(tmp_path):
    good = record("好".encode("gbk"))
    bodies = {
        "size.gnt": good + record(b"A\0", size=11) + good,
        "sizes.gnt": good + record(b"A\0", size=2**32 - 1) + good,
        "width.gnt": good + struct.pack("<I2sHH", 64, b"A\0", 500, 500) + bytes(54) + good,
        "unknown.gnt": good + record(b"\x80\x80") + record(b"\xaa\xa1") + record(b"\x01\0") + good,
        "empty.gnt": good + struct.pack("<I2sHH", 10, b"A\0", 0, 7) + good,
    }
    _, rows, rejects = run("hwdb-gnt", write(tmp_path / "in", bodies), tmp_path / "out")
    assert texts(rows) == ["好"] * 10
    assert sorted(reasons(rejects)) == ["sizes contradict"] * 4 + ["unknown character code"] * 3


def test_a_truncated_file_ends_in_one_reject_that_counts_the_bytes(tmp_path):
    good = record("好".encode("gbk"))
    bodies = {
        "body.gnt": good + record(b"A\0", cut=30),
        "head.gnt": good + record(b"A\0", cut=6),
        "junk.gnt": good + bytes(range(100)),
        "none.gnt": b"",
    }
    _, rows, rejects = run("hwdb-gnt", write(tmp_path / "in", bodies), tmp_path / "out")
    assert texts(rows) == ["好"] * 3
    assert reasons(rejects) == ["truncated record", "truncated record", "sizes contradict"]
    assert (
        rejects[0]["where"] == "body.gnt record 2" and "20 bytes are lost" in rejects[0]["detail"]
    )


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_give_only_rows_and_rejects(tmp_path, count):
    codes = ["好".encode("gbk"), b"A\0", "我".encode("gbk")]
    body = b"".join(record(code, 20 + i, 30) for i, code in enumerate(codes * 3))
    assert_survives("hwdb-gnt", mutations(body, count), tmp_path, "001-f.gnt")
