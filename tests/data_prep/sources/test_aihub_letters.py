from tests.helpers.aihub import dump
from tests.helpers.sources_common import reasons, run, save, texts


def test_letters_words_and_sentences(tmp_path):
    save(tmp_path / "in" / "w.jpg", (200, 100))
    save(tmp_path / "in" / "l.jpg", (40, 40))
    save(tmp_path / "in" / "s.jpg", (90, 40))
    words = [
        {"value": "바른", "wordbox": [10, 10, 60, 30]},
        {"value": "글", "wordbox": [70, 12, 90, 32]},
        {"value": "?", "wordbox": None},
    ]
    image = {"file_name": "w.jpg", "width": 200, "height": 100}
    dump(tmp_path / "in" / "w.json", {"image": image, "text": {"word": words}})
    letter = {"image": {"file_name": "l.jpg"}, "text": {"letter": {"value": "각"}}}
    dump(tmp_path / "in" / "l.json", letter)
    dump(tmp_path / "in" / "s.json", {"image": {"file_name": "s.jpg"}, "info": {"text": "한 문장"}})
    options = {"split": "1,0,0"}
    _, rows, rejects = run("aihub-letters", tmp_path / "in", tmp_path / "out", **options)
    assert texts(rows) == ["각", "한 문장", "바른", "글"] and reasons(rejects) == ["malformed box"]
    assert [(row.width, row.height) for row in rows] == [(40, 40), (90, 40), (50, 20), (20, 20)]
    options |= {"task": "pages"}
    _, rows, rejects = run("aihub-letters", tmp_path / "in", tmp_path / "p", **options)
    assert texts(rows) == ["각", "한 문장"] and reasons(rejects) == ["malformed box"]
