import pytest

from tests.helpers.sources_common import real_data, reasons, run, save, texts


def test_pictures_lie_in_the_phase_folder_or_beside_with_or_without_extension(tmp_path):
    save(tmp_path / "in" / "train" / "a.jpg")
    save(tmp_path / "in" / "test" / "b.png")
    save(tmp_path / "in" / "c.jpg")
    lines = "a.jpg,你好，世界,三\nmissing,文\nno comma\n\na,再\n"
    (tmp_path / "in" / "train_img_id_gt.txt").write_text(lines)
    (tmp_path / "in" / "test_img_id_gt.txt").write_text("b,测\nc,\n")
    (tmp_path / "in" / "chars_list.txt").write_text("你\n好\n")
    summary, rows, rejects = run("hctr", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["你好，世界,三", "再", "测"]
    assert summary["rows"] == {"train": 2, "test": 1} and rows[0].group == "train/a"
    assert sorted(reasons(rejects)) == ["empty text", "malformed line", "missing image"]


@pytest.mark.real_data
def test_real_hctr_lines_are_read(tmp_path):
    summary, rows, _ = run("hctr", real_data("chinese_lines"), tmp_path / "out")
    assert summary["found"] == len(rows) == 3 and summary["rows"] == {"test": 3}
    assert texts(rows)[1] == "衹辱于奴隶人之手" and rows[0].width > 800
