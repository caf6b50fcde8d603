import openpyxl

from tests.helpers.sources_common import reasons, run, save, texts


def test_bn_htrd(tmp_path):
    for folder, header in (("1", ("Id", "Word")), ("2", ("ID", "word"))):
        book = openpyxl.Workbook()
        book.active.append(header)
        book.active.append((f"{folder}_1_1", "শব্দ"))
        book.active.append((f"{folder}_1_2", 12))
        book.active.append((f"{folder}_1_3", None))
        book.active.append((None, None))
        book.active.append((f"{folder}_9_9", "নেই"))
        (tmp_path / "in" / folder).mkdir(parents=True)
        book.save(tmp_path / "in" / folder / f"{folder}.xlsx")
        for word in (1, 2, 3):
            name = f"{folder}_1_{word}.jpg"
            mark = 10 * int(folder) + word
            save(tmp_path / "in" / folder / "Words" / "line1" / name, mark=mark)
    (tmp_path / "in" / "3").mkdir()
    (tmp_path / "in" / "3" / "3.xlsx").write_bytes(b"PK broken")
    _, rows, rejects = run("bn-htrd", tmp_path / "in", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["শব্দ", "12"] * 2 and [row.group for row in rows] == ["1", "1", "2", "2"]
    assert reasons(rejects) == ["empty text", "missing image"] * 2 + ["unreadable sheet"]
