import pytest
from PIL import Image, ImageDraw

from data_prep.dataset.crops import is_upright, straighten
from tests.helpers.sources_common import pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, mutations

LINES = [
    "377,117,463,117,465,130,378,130,Genaxis Theatre",
    "493,115,519,115,519,131,493,131,[06]",
    "374,155,409,155,409,170,374,170,###",
    "492,151,551,151,551,170,492,170,62-03, a",
    "376,198,422,198,422,212,376,212,***",
    "broken",
    "1,2,3,4,5,6,7,x,letters",
    "9000,1,9010,1,9010,9,9000,9,outside",
]


def write(folder, lines, name="gt_img_1.txt", picture="img_1.jpg"):
    save(folder / picture, (600, 240))
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    return folder


def test_quadrilaterals_with_icdars_mark(tmp_path):
    source = write(tmp_path / "in", LINES)
    summary, rows, rejects = run("icdar", source, tmp_path / "out", language="en")
    assert texts(rows) == ["Genaxis Theatre", "[06]", "62-03, a", "***"]
    assert {row.group for row in rows} == {"img_1.jpg"}
    assert reasons(rejects) == [
        *("marked illegible", "malformed line", "malformed line", "box outside picture")
    ]
    content = (source / "gt_img_1.txt").read_bytes()
    assert summary["found"] == sum(1 for line in content.split(b"\n") if line.strip())
    _, rows, _ = run("icdar", source, tmp_path / "kept", keep_illegible=True)
    assert "###" in texts(rows)


def test_slanted_icdar_text_is_straightened(tmp_path):
    # A black bar on a slope of 45 degrees: put straight, its picture is black all over.
    image = Image.new("L", (200, 200), 255)
    corners = [(60, 40), (160, 140), (140, 160), (40, 60)]
    ImageDraw.Draw(image).polygon(corners, fill=0)
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "img_7.png")
    line = ",".join(f"{x},{y}" for x, y in corners) + ",slanted"
    (tmp_path / "in" / "gt_img_7.txt").write_text(line)
    _, rows, _ = run("icdar", tmp_path / "in", tmp_path / "out")
    (cut,) = pictures(tmp_path / "out", rows[0])
    assert cut.size == (141, 28) and (rows[0].width, rows[0].height) == cut.size
    inner = cut.crop((2, 2, 139, 26))
    assert inner.getextrema()[1] < 60


@pytest.mark.parametrize("turned", [False, True])
def test_straightening_never_mirrors(turned):
    image = Image.new("L", (100, 40), 255)
    ImageDraw.Draw(image).rectangle((10, 10, 19, 29), fill=0)  # ink at the text's left
    corners = [(10.0, 8.0), (90.0, 12.0), (90.0, 32.0), (10.0, 28.0)]
    corners = [corners[0], *reversed(corners[1:])] if turned else corners
    cut = straighten(image, corners)
    left, right = cut.crop((0, 0, 10, cut.height)), cut.crop((40, 0, 80, cut.height))
    assert sum(left.histogram()[:128]) > 100 and sum(right.histogram()[:128]) == 0


def test_straightening_a_whole_picture_changes_nothing():
    image = Image.effect_noise((31, 17), 60)
    corners = [(0.0, 0.0), (31.0, 0.0), (31.0, 17.0), (0.0, 17.0)]
    assert is_upright(corners) and straighten(image, corners).tobytes() == image.tobytes()
    assert not is_upright([(0, 0), (30, 4), (30, 20), (0, 16)])
    assert not is_upright([(30, 0), (30, 20), (0, 20), (0, 0)])  # the text runs downward


@pytest.mark.parametrize("corners", [[(0, 0)] * 4, [(0, 0), (9e8, 0), (9e8, 9e8), (0, 9e8)]])
def test_corners_without_a_picture_are_refused(corners):
    with pytest.raises(ValueError, match="corners"):
        straighten(Image.new("L", (10, 10)), corners)


@pytest.mark.parametrize(
    ("lines", "expected", "script"),
    [
        (["1,2,50,2,50,20,1,20,Latin,Text, here"] * 2, "Text, here", "Latin"),
        (["1,2,50,2,50,20,1,20,Latin,Text", "1,2,50,2,50,20,1,20,Other"], "Latin,Text", None),
        (['38, 43, 120, 55, "Tired, ness"'], "Tired, ness", None),
        (['38 43 120 55 "Foot"'], "Foot", None),
    ],
)
def test_icdar_lines_of_other_years_are_read(tmp_path, lines, expected, script):
    source = write(tmp_path / "in", lines)
    _, rows, _ = run("icdar", source, tmp_path / "out", split="1,0,0")
    assert texts(rows)[0] == expected
    assert ("script" in rows[0].meta) == (script is not None)


def test_cut_words_with_their_texts_in_one_file(tmp_path):
    for number in (1, 2):
        save(tmp_path / "in" / f"word_{number}.png", mark=9 * number)
    text = 'word_1.png, "Tired, \\"ness\\""\nword_2.png, "###"\n'
    (tmp_path / "in" / "gt.txt").write_text(text)
    _, rows, rejects = run("icdar", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ['Tired, "ness"'] and reasons(rejects) == ["marked illegible"]


@pytest.mark.parametrize("count", [500, pytest.param(2_000, marks=pytest.mark.slow)])
def test_damaged_lines_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "img_1.jpg", (600, 240))
    lines = ["\ufeff377,117,463,110,465,130,378,137,Genaxis, 한글", '38, 43, 120, 55, "Tired"']
    damaged = mutations("\r\n".join(lines).encode(), count)
    assert assert_survives("icdar", damaged, tmp_path, "gt_img_1.txt") > 0
