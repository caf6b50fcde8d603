"""Datasets as other people have them on disk: which files are read, how names meet, what groups."""

import json
import unicodedata
import zipfile

import numpy as np
import pytest

from data_prep.convert import main
from data_prep.dataset.schema import DataError
from data_prep.dataset.split import file_split, join_groups, official_split, page_of
from tests.helpers.sources_common import draw, encoded, read_rejects, reasons, run, save, texts

BOX = [[5, 2], [40, 2], [40, 18], [5, 18]]


def boxes(*pairs):
    """A line's boxes as PPOCRLabel writes them."""
    return json.dumps(
        [{"transcription": text, "points": BOX, "difficult": hard} for text, hard in pairs],
        ensure_ascii=False,
    )


def make_ppocrlabel(folder):
    """Two pages as PPOCRLabel leaves them, with their crops and its own notes."""
    crops = []
    for name, words in {"a": ["HELLO", "WORLD"], "b": ["HELLO"]}.items():
        save(folder / f"{name}.png", (60, 20), mark=ord(name))
        for index, word in enumerate(words):
            crop = f"crop_img/{name}_crop_{index}.jpg"
            save(folder / crop, (35, 16), mark=10 * (name == "b") + index)
            crops.append(f"{crop}\t{word}")
    (folder / "Label.txt").write_text(
        f"work/a.png\t{boxes(('HELLO', False), ('WORLD', False))}\n"
        f"work/b.png\t{boxes(('HELLO', False), ('待识别', False), ('x', True))}\n",
        encoding="utf-8",
    )
    (folder / "rec_gt.txt").write_text("\n".join(crops))
    (folder / "fileState.txt").write_text("D:\\work\\a.png\t1\nD:\\work\\b.png\t1\n")


def test_ppocrlabel_state_files_and_crops_are_not_read_as_labels(tmp_path):
    make_ppocrlabel(tmp_path / "in")
    _, rows, rejects = run("paddle", tmp_path / "in", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["HELLO", "WORLD", "HELLO"]
    assert [row.group for row in rows] == ["a.png", "a.png", "b.png"]
    assert reasons(rejects) == ["marked illegible"] * 2 + ["said already in Label.txt"] * 3
    (tmp_path / "in" / "Label.txt").unlink()
    _, rows, rejects = run("paddle", tmp_path / "in", tmp_path / "crops", split="0.5,0.5,0")
    assert [(row.completion[0]["content"], row.group) for row in rows if row.group == "a"] == [
        ("HELLO", "a"),
        ("WORLD", "a"),
    ]
    assert len(rows) == 3 and not rejects


def test_label_file_with_a_split_wins_over_one_without(tmp_path):
    for index in range(3):
        save(tmp_path / "in" / f"{index}.png", mark=index)
    lines = [f"{index}.png\ttext {index}" for index in range(3)]
    (tmp_path / "in" / "rec_gt.txt").write_text("\n".join(lines))
    (tmp_path / "in" / "rec_gt_test.txt").write_text(lines[1])
    summary, _, rejects = run("paddle", tmp_path / "in", tmp_path / "out")
    assert summary["rows"] == {"train": 2, "test": 1}
    assert reasons(rejects) == ["said already in rec_gt_test.txt"]


def test_marks_are_kept_on_request_and_are_text_in_other_formats(tmp_path):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "Label.txt").write_text(
        f"a.png\t{boxes(('HELLO', True), ('###', False), ('TEMPORARY', False), ('xxx', False))}"
    )
    _, rows, rejects = run("paddle", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["xxx"] and reasons(rejects) == ["marked illegible"] * 3
    _, rows, _ = run("paddle", tmp_path / "in", tmp_path / "kept", keep_illegible=True)
    assert texts(rows) == ["HELLO", "###", "TEMPORARY", "xxx"]
    table = [{"image": "a.png", "text": mark} for mark in ("xxx", "***", "###", "TEMPORARY")]
    (tmp_path / "in" / "t.jsonl").write_text("\n".join(map(json.dumps, table)))
    _, rows, _ = run("table", tmp_path / "in" / "t.jsonl", tmp_path / "table")
    assert texts(rows) == ["xxx", "***", "###", "TEMPORARY"]


def test_sroie_reads_icdars_names_and_only_icdars_mark(tmp_path):
    save(tmp_path / "in" / "images" / "img_1.jpg", (600, 240))
    lines = ["1,2,50,2,50,20,1,20,Genaxis, Theatre", "1,2,50,2,50,20,1,20,###"]
    lines += ["1,2,50,2,50,20,1,20,xxx", "1,2,50,2,50,20,1,20,***"]
    (tmp_path / "in" / "gt").mkdir()
    (tmp_path / "in" / "gt" / "gt_img_1.txt").write_text(
        "\ufeff" + "\r\n".join(lines), encoding="utf-8", newline=""
    )
    _, rows, rejects = run("sroie", tmp_path / "in", tmp_path / "out", task="lines")
    assert texts(rows) == ["Genaxis, Theatre", "xxx", "***"]
    assert reasons(rejects) == ["marked illegible"]
    _, rows, _ = run("sroie", tmp_path / "in", tmp_path / "kept", keep_illegible=True)
    assert len(rows) == 4


@pytest.mark.parametrize("line", ["a.png\t[]", "a.png\tone\tb.png\ttwo", 'a.png\t[{"a'])
def test_every_line_is_a_row_or_a_reject(tmp_path, line):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "rec_gt.txt").write_text(f"a.png\tgood\n{line}\n")
    summary, rows, _ = run("paddle", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["good"] and summary["found"] == 2


def test_a_list_of_pictures_shares_one_text(tmp_path):
    for mark in (1, 2):
        save(tmp_path / "in" / f"{mark}.png", mark=mark)
    (tmp_path / "in" / "rec_gt.txt").write_text('["1.png", "2.png"]\t中文\n', encoding="utf-8")
    _, rows, _ = run("paddle", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["中文", "中文"] and len({row.id for row in rows}) == 2


# --- names ---


@pytest.mark.parametrize(
    ("stated", "file"),
    [
        (unicodedata.normalize("NFC", "간판.png"), unicodedata.normalize("NFD", "간판.png")),
        (unicodedata.normalize("NFD", "간판.png"), unicodedata.normalize("NFC", "간판.png")),
        ("IMG_1.PNG", "IMG_1.png"),
        ("IMG_1.png", "img/IMG_1.PNG"),
        ("word.png", "photos/deep/word.png"),
        ("D:\\work\\photos\\word.png", "photos/word.png"),
        ("elsewhere/word.png", "word.png"),
    ],
)
@pytest.mark.parametrize("source", ["paddle", "table"])
def test_stated_picture_names_match_differently_spelled_files(tmp_path, source, stated, file):
    save(tmp_path / "in" / file)
    save(tmp_path / "in" / "photos" / "other.png", mark=3)
    text = f"{stated}\tx\n" if source == "paddle" else f"image\ttext\n{stated}\tx\n"
    (tmp_path / "in" / "labels.tsv").write_text(text, encoding="utf-8")
    _, rows, rejects = run(source, tmp_path / "in" / "labels.tsv", tmp_path / "out")
    assert texts(rows) == ["x"] and not rejects


def test_ambiguous_picture_name_is_a_reject(tmp_path):
    save(tmp_path / "in" / "good.png")
    for mark, folder in enumerate(("one", "two")):
        save(tmp_path / "in" / folder / "a.png", mark=mark)
    save(tmp_path / "in" / "test" / "b.png", mark=5)
    (tmp_path / "in" / "rec_gt_train.txt").write_text("good.png\tx\na.png\tx\nb.png\tx\n")
    _, rows, rejects = run("paddle", tmp_path / "in" / "rec_gt_train.txt", tmp_path / "out")
    # b.png lies among the test set's pictures, where another b.png may be called the same.
    assert len(rows) == 1
    assert reasons(rejects) == ["several pictures of this name", "missing image"]


def test_two_label_sets_use_their_own_pictures(tmp_path):
    for mark, name in enumerate("ABC"):
        save(tmp_path / "in" / name / "a.png", (60, 20), mark=9 * mark)
        (tmp_path / "in" / name / "rec.txt").write_text(f"{name}/a.png\t{name}\n")
    out = tmp_path / "out"
    _, rows, rejects = run("paddle", tmp_path / "in", out, split="1,0,0")
    assert texts(rows) == ["A", "B", "C"] and not rejects
    for mark, row in enumerate(rows):
        assert (out / "train" / row.images_file_names[0]).read_bytes() == encoded(
            draw(mark=9 * mark)
        )


IMAGE_SOURCES = {
    "paddle": ("rec.txt", "a.png\tx"),
    "table": ("t.csv", "image,text\na.png,x"),
    "wildreceipt": (
        "train.txt",
        '{"file_name": "a.png", "width": 60, "height": 20, "annotations": '
        '[{"box": [5, 2, 40, 2, 40, 18, 5, 18], "text": "x", "label": 1}]}',
    ),
    "hctr": ("test_img_id_gt.txt", "a,x"),
    "sroie": ("box/a.txt", "5,2,40,2,40,18,5,18,x"),
    "funsd": (
        "annotations/a.json",
        '{"form": [{"id": 0, "text": "x", "box": [5, 2, 40, 18], "label": "other", '
        '"linking": []}]}',
    ),
    "banglawriting": ("a.json", json.dumps({"shapes": [{"label": "x", "points": BOX}]})),
    "aihub-outdoor": (
        "a.json",
        '{"images": [{"file_name": "a.png", "width": 60, "height": 20}], "annotations": '
        '[{"id": 1, "bbox": [5, 2, 35, 16], "text": "x"}]}',
    ),
    "cord": (
        "json/a.json",
        '{"valid_line": [{"words": [{"quad": {"x1": 5, "y1": 2, "x2": 40, "y2": 2, "x3": 40, '
        '"y3": 18, "x4": 5, "y4": 18}, "is_key": 0, "row_id": 1, "text": "x"}], '
        '"category": "menu.nm", "group_id": 1}]}',
    ),
}


@pytest.mark.parametrize("source", IMAGE_SOURCES)
def test_pictures_may_lie_in_another_folder(tmp_path, source):
    name, text = IMAGE_SOURCES[source]
    (tmp_path / "labels" / name).parent.mkdir(parents=True)
    (tmp_path / "labels" / name).write_text(text)
    save(tmp_path / "photos" / "deep" / "a.png")
    options = {"images": str(tmp_path / "photos")} | ({"task": "lines"} if source == "cord" else {})
    _, rows, rejects = run(source, tmp_path / "labels", tmp_path / "out", **options)
    assert texts(rows) == ["x"] and not rejects


def test_missing_picture_message_lists_the_tried_paths(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rec.txt").write_text("img/a.png\tx\nimg/b.png\ty\nimg/c.png\tz\n")
    out = tmp_path / "out"
    assert main(["paddle", str(tmp_path / "in"), "--out", str(out), "--workers", "1"]) == 1
    message = capsys.readouterr().err
    for part in ("rec.txt:1", "rec.txt:2", "in/img/a.png", "--images DIR", "out/rejects.jsonl"):
        assert part in message
    assert reasons(read_rejects(out)) == ["missing image"] * 3
    save(tmp_path / "in" / "img" / "a.png")
    _, rows, _ = run("paddle", tmp_path / "in", out)  # the rejects do not stand in its way
    assert texts(rows) == ["x"]


# --- what is no item ---


def test_operating_system_files_are_no_items(tmp_path):
    form = IMAGE_SOURCES["funsd"][1]
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("d/annotations/a.json", form)
        archive.writestr("d/images/a.png", encoded(draw()))
        for name in ("__MACOSX/d/annotations/._a.json", "d/annotations/._a.json", "d/.DS_Store"):
            archive.writestr(name, b"\0\5\26\7")
    summary, rows, _ = run("funsd", tmp_path / "d.zip", tmp_path / "out")
    assert texts(rows) == ["x"] and summary["found"] == 1


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 1862\n"


def test_a_git_lfs_pointer_is_named(tmp_path):
    for name in ("box/X1.txt", "img/X1.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_text(POINTER)
    with pytest.raises(DataError, match=r"X1.txt is a git-lfs pointer .*run `git lfs pull`"):
        run("sroie", tmp_path / "in", tmp_path / "out")
    save(tmp_path / "table" / "a.png")
    (tmp_path / "table" / "b.png").write_text(POINTER)
    (tmp_path / "table" / "t.csv").write_text("image,text\na.png,x\nb.png,y\n")
    _, rows, rejects = run("table", tmp_path / "table", tmp_path / "two")
    assert len(rows) == 1 and reasons(rejects) == ["git-lfs pointer"]


def test_pictures_of_every_usual_ending_are_found(tmp_path):
    for mark, (ending, kind) in enumerate(
        {"jpg": "JPEG", "jfif": "JPEG", "jp2": "JPEG2000", "avif": "AVIF", "ppm": "PPM"}.items()
    ):
        (tmp_path / f"{ending}_{mark}.{ending}").write_bytes(encoded(draw(mark=9 * mark), kind))
    (tmp_path / "phone_9.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "phone_8.jxl").write_bytes(b"\xff\x0a" + bytes(40))
    out = tmp_path.parent / f"{tmp_path.name}-out"
    _, rows, rejects = run("folder", tmp_path, out, split="1,0,0")
    assert sorted(texts(rows)) == ["avif", "jfif", "jp2", "jpg", "ppm"]
    assert ["pillow-heif" in reject["detail"] for reject in rejects] == [False, True]
    assert "pillow-jxl-plugin" in rejects[0]["detail"]


# --- groups and splits ---


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("a_crop_0.jpg", "a"),
        ("x/crop_img/a_crop_12.jpg", "x/a"),
        ("x/page-7_line_3.png", "x/page-7"),
        ("report-p2.pdf", "report"),
        ("0001.jpg", "0001.jpg"),
        ("line_0001.png", "line_0001.png"),
        ("_crop_1.png", "_crop_1.png"),
        ("crop_img/odd.png", "crop_img/odd.png"),
        ("word_12.png", "word_12.png"),
    ],
)
def test_page_of_a_file_name(name, page):
    assert page_of(name) == page


def make_lines(folder, names):
    lines = ["image,text"]
    for mark, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(np.random.default_rng(mark).bytes(4) + encoded(draw()))
        (folder / name).write_bytes(encoded(draw((60 + mark // 50, 20), mark=mark)))
        lines.append(f"{name},text {mark}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def test_lines_of_a_page_stay_in_one_split(tmp_path):
    names = [f"p{page}_line_{line}.png" for page in range(6) for line in range(4)]
    table = make_lines(tmp_path / "in", names)
    summary, rows, _ = run("table", table, tmp_path / "out", split="0.5,0.25,0.25")
    assert {row.group for row in rows} == {f"p{page}" for page in range(6)}
    assert all(count % 4 == 0 for count in summary["rows"].values())
    pattern = r"(?P<group>line_\d+)"
    _, rows, _ = run("table", table, tmp_path / "hand", group_pattern=pattern)
    assert {row.group for row in rows} == {f"line_{line}" for line in range(4)}


def test_running_numbers_in_file_names_are_not_pages(tmp_path, capsys):
    table = make_lines(tmp_path / "in", [f"img_{number:04d}.png" for number in range(1000)])
    assert main(["table", str(table), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    printed = capsys.readouterr()
    assert "train 800, validation 100, test 100" in printed.out
    assert "note" not in printed.err and "warning" not in printed.err


def test_equal_pictures_share_a_group(tmp_path):
    names = [f"{number}.png" for number in range(30)]
    table = make_lines(tmp_path / "in", names)
    for number in range(0, 30, 3):  # three files of each ten are one picture
        for copy in (1, 2):
            data = (tmp_path / "in" / f"{number}.png").read_bytes()
            (tmp_path / "in" / f"{number + copy}.png").write_bytes(data)
    summary, rows, _ = run("table", table, tmp_path / "out", split="0.4,0.3,0.3")
    assert summary["rows"] == {"train": 12, "validation": 9, "test": 9}
    assert len({row.group for row in rows}) == 10


@pytest.mark.parametrize("seed", range(20))
def test_joined_groups_are_connected_components(seed):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 30, 60).tolist()
    pairs = [(int(row), int(link)) for row, link in random.integers(0, (60, 40), (50, 2))]
    rows, links = [row for row, _ in pairs], [link for _, link in pairs]
    parent = list(range(30))

    def root(group):
        return group if parent[group] == group else root(parent[group])

    for row, link in pairs:
        for other, same in pairs:
            if same == link:
                parent[root(keys[row])] = root(keys[other])
    joined = join_groups(keys, rows, links)
    joined = [keys.index(key) for key in keys] if joined is None else joined.tolist()
    for row in range(60):
        expected = min(at for at in range(60) if root(keys[at]) == root(keys[row]))
        assert joined[row] == expected


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("rec_gt_train.txt", "train"),
        ("val_excerpt.json", "validation"),
        ("test-00000-of-00001.parquet", "test"),
        ("instances_train2017.json", "train"),
        ("HWDB1.1trn.gnt", "train"),
        ("scut_test_img_id_gt.txt", "test"),
        ("docvqa_train_v1.0_withQT.json", "train"),
        ("Acme-train-ticket.pdf", None),
        ("latest.csv", None),
        ("labels.csv", None),
    ],
)
def test_label_files_state_a_split_at_an_end_of_their_name(name, split):
    assert file_split(name) == split


def test_split_of_a_single_document_comes_from_folders_only(tmp_path):
    for mark, name in enumerate(("blood-test", "Acme-train-ticket", "test/other")):
        save(tmp_path / "in" / f"{name}.png", mark=mark)
        (tmp_path / "in" / f"{name}.json").write_text('{"total": "5.00"}')
    summary, rows, _ = run("pdf", tmp_path / "in", tmp_path / "out", task="fields")
    assert summary["rows"] == {"train": 2, "test": 1}
    assert set(texts(rows)) == {'{"total": "5.00"}'}
    assert official_split("x/test") == "test"


# --- tables ---


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", '\n[ {"image": "1.png", "text": "hello, you"},\n {"image": "1.png"}]'),
        ("labels.json", '{"1.png": "hello, you", "2.png": null}'),
        ("labels.csv", "filename,words\n1.png,hello, you\n2.png"),
        ("labels.txt", "1.png hello, you\nnothing here"),
        ("labels.jsonl", '{"file_name": "1.png", "text": "hello, you"}\n{}'),
    ],
)
def test_tables_of_other_trainers_are_read(tmp_path, name, content):
    save(tmp_path / "in" / "1.png")
    (tmp_path / "in" / name).write_text(content)
    for path in (tmp_path / "in", tmp_path / "in" / name):
        out = tmp_path / f"out-{path.name}"
        summary, rows, _ = run("table", path, out)
        assert texts(rows) == ["hello, you"] and summary["found"] == 2


def test_donut_truth_is_the_value_of_gt_parse(tmp_path):
    save(tmp_path / "in" / "train" / "1.png")
    truth = json.dumps({"gt_parse": {"total": "5.00"}, "meta": {"version": 1}})
    line = json.dumps({"file_name": "1.png", "ground_truth": truth})
    (tmp_path / "in" / "train" / "metadata.jsonl").write_text(line)
    summary, rows, _ = run("table", tmp_path / "in", tmp_path / "out", task="extraction")
    assert texts(rows) == ['{"total": "5.00"}'] and summary["rows"] == {"train": 1}


def test_texts_that_are_running_numbers_get_a_note(tmp_path, capsys):
    for number in range(3):
        save(tmp_path / "in" / f"{number}_{1999 + number}.png", mark=number)
    summary, rows, _ = run("folder", tmp_path / "in", tmp_path / "out")
    assert sorted(texts(rows)) == ["0", "1", "2"]
    assert "all texts are running numbers (0 to 2)" in summary["notes"][0]
    pattern = r"\d+_(?P<text>.+)"
    summary, _, _ = run("folder", tmp_path / "in", tmp_path / "right", pattern=pattern)
    assert "notes" not in summary


def test_dataset_of_an_older_version_counts_as_finished(tmp_path):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "rec_gt.txt").write_text("a.png\tx\n")
    out = tmp_path / "out"
    run("paddle", tmp_path / "in", out)
    made = json.loads((out / "dataset.json").read_text())
    # Version 1 did not know these options.
    made["version"] = "1"
    made["options"] = {k: v for k, v in made["options"].items() if k not in ("images",)}
    made["options"].pop("keep_illegible")
    (out / "dataset.json").write_text(json.dumps(made))
    assert run("paddle", tmp_path / "in", out)[0]["version"] == "1"
    with pytest.raises(DataError, match="already holds a dataset made from paddle"):
        run("paddle", tmp_path / "in", out, keep_illegible=True)
