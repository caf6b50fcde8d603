import shutil

from PIL import Image

from ocrkit.data.rows import (
    dataset_of,
    first_picture,
    first_picture_files,
    picture_hashes,
    select_rows,
    text_of,
    without_images,
)


def row(name, image):
    prompt = [{"role": "user", "content": "Read."}]
    completion = [{"role": "assistant", "content": name}]
    return {"id": name, "prompt": prompt, "completion": completion, "images": [image]}


def picture(path, value=0):
    Image.new("L", (8, 4), value).save(path)
    return str(path)


def test_texts_are_those_of_the_first_message():
    assert text_of([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]) == "a"
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert text_of([{"role": "user", "content": parts}]) == "ab" and text_of([]) == ""


def test_hashes_of_pictures_are_those_of_their_contents(tmp_path):
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 9)
    copy = shutil.copy(first, tmp_path / "copy.png")
    rows = [row("a", first), row("b", second), row("c", str(copy)), row("d", "none.png")]
    hashes = picture_hashes(rows)
    assert hashes[0] == hashes[2] != hashes[1] and len(set(map(tuple, hashes))) == 3
    assert picture_hashes(dataset_of(rows[:3])) == hashes[:3]
    assert picture_hashes(without_images(dataset_of(rows[:3]))) == [[], [], []]


def test_files_of_pictures_are_reported_without_opening_them(tmp_path):
    rows = [row("a", picture(tmp_path / "a.png")), row("b", picture(tmp_path / "b.png"))]
    data = dataset_of(rows)
    (tmp_path / "b.png").unlink()
    assert first_picture_files(data) == [str(tmp_path / "a.png"), None]
    content = (tmp_path / "a.png").read_bytes()
    assert first_picture_files(dataset_of([row("c", {"bytes": content, "path": None})])) == []
    assert first_picture(data, 0).size == (8, 4) and first_picture([{"id": "x"}], 0) is None


def test_rows_are_selected_from_lists_and_datasets(tmp_path):
    rows = [row(name, picture(tmp_path / "a.png")) for name in "abc"]
    assert [each["id"] for each in select_rows(rows, [2, 0])] == ["c", "a"]
    assert select_rows(dataset_of(rows), [2, 0])["id"][:] == ["c", "a"]
