import os
import shutil
import subprocess
import sys
import types

import pytest
import regex
from datasets import load_dataset
from PIL import Image, ImageDraw, ImageFont

from data_prep.convert import convert
from data_prep.dataset.schema import DataError
from data_prep.synthetic.fonts import find_fonts
from data_prep.synthetic.render import load_font
from ocrkit.evaluation import engines
from ocrkit.evaluation.evaluate import evaluate_engine
from tests.helpers.evaluations import rows
from tests.helpers.sources_common import real_data

needs_tesseract = pytest.mark.skipif(not shutil.which("tesseract"), reason="needs tesseract")
LINES = {"ko": "서울특별시 강남구", "zh": "今天天气很好，我们去公园。", "bn": "আমার সোনার বাংলা"}


def test_engine_reads_changed_pictures_again(tmp_path, monkeypatch):
    engine = types.ModuleType("pytesseract")
    engine.get_tesseract_version = lambda: "5"
    engine.get_languages = lambda: ["eng", "kor"]
    monkeypatch.setitem(sys.modules, "pytesseract", engine)
    asked = []

    def read(picture, language, psm):
        asked.append(language)
        return engines.Reading(str(picture.getpixel((0, 0))), 0.9)

    monkeypatch.setattr(engines, "_read_with_tesseract", read)
    evaluate_engine("tesseract", rows(2), tmp_path)
    evaluate_engine("tesseract", rows(2), tmp_path)
    assert asked == ["eng"] * 2
    redrawn = rows(2)
    redrawn[1]["images"] = [Image.new("L", (8, 8), 77)]
    evaluated = evaluate_engine("tesseract", redrawn, tmp_path)
    assert [record["prediction"] for record in evaluated.records] == ["0", "77"]
    redrawn[1]["language"] = "ko"
    evaluate_engine("tesseract", redrawn, tmp_path)
    assert asked == ["eng"] * 4 + ["eng", "kor"]


@pytest.mark.parametrize("chosen", [None, "3"])
def test_tesseract_alone_is_limited_to_one_thread(monkeypatch, chosen):
    """A limit that outlasts Tesseract makes torch, imported later, train with one thread."""
    limits = []

    def image_to_data(*arguments, **options):
        limits.append(os.environ["OMP_THREAD_LIMIT"])
        raise RuntimeError("no such language")

    engine = types.ModuleType("pytesseract")
    engine.image_to_data, engine.Output = image_to_data, types.SimpleNamespace(DICT="dict")
    monkeypatch.setitem(sys.modules, "pytesseract", engine)
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_THREAD_LIMIT", chosen)
    with pytest.raises(RuntimeError, match="no such language"):
        engines._read_with_tesseract(Image.new("L", (90, 30)), "eng")
    assert limits == [chosen or "1"] and os.environ.get("OMP_THREAD_LIMIT") == chosen


@needs_tesseract
def test_tesseract_reads_lines_and_resumes(tmp_path, monkeypatch):
    data = rows(3)
    font = ImageFont.load_default(32)
    for row in data[:2]:
        picture = Image.new("L", (240, 56), 255)
        text = row["completion"][0]["content"]
        ImageDraw.Draw(picture).text((12, 8), text, font=font, fill=0)
        row["images"] = [picture]
    data[2]["images"] = []
    evaluated = evaluate_engine("tesseract", data, tmp_path)
    assert [r["prediction"] for r in evaluated.records[:2]] == ["line 0", "line 1"]
    assert all(0.3 < r["confidence"] <= 1 for r in evaluated.records[:2])
    assert evaluated.failed == 1 and evaluated.records[2]["error"] == "the row has no picture"
    asked = []
    monkeypatch.setattr(engines, "_read_with_tesseract", lambda *a, psm: asked.append(a))
    evaluate_engine("tesseract", data, tmp_path)
    assert asked == []  # the two that were read are kept, the third has nothing to read


@needs_tesseract
def test_tesseract_without_a_language_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no data for 'xyz': install tesseract-ocr-xyz"):
        evaluate_engine("tesseract", rows(1), tmp_path, language="xyz")


def reader_of(language):
    """Tesseract's name of a language, or a skip that names the package of its data."""
    name = engines.TESSERACT[language]
    installed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True)
    if name not in installed.stdout.split():
        pytest.skip(f"needs tesseract-ocr-{name.replace('_', '-')}")
    return name


@needs_tesseract
@pytest.mark.parametrize("language", LINES)
def test_tesseract_reads_every_row_in_its_own_language(tmp_path, language):
    reader_of(language)
    try:
        fonts = find_fonts(language, "print")
    except DataError as error:
        pytest.skip(str(error))
    font = load_font(next(iter(fonts.values()))[0], 40)
    data = rows(2)
    for row, text, code, face in zip(
        data,
        ("Receipt number", LINES[language]),
        ("en", f"{language}-XX"),
        (ImageFont.load_default(40), font),
    ):
        picture = Image.new("L", (int(face.getlength(text)) + 40, 76), 255)
        ImageDraw.Draw(picture).text((20, 10), text, font=face, fill=0)
        completion = [{"role": "assistant", "content": text}]
        row |= {"images": [picture], "language": code, "completion": completion}
    evaluated = evaluate_engine("tesseract", data, tmp_path)
    assert evaluated.failed == 0
    assert evaluated.by["language"]["en"]["cer"]["value"] == 0
    # Read in another language, hardly a character would be right.
    assert evaluated.by["language"][f"{language}-XX"]["cer"]["value"] < 0.4


def test_tesseract_language_comes_from_the_row():
    codes = ("bn", "ko-KR", "zh", "zh_CN", "zh-Hans-CN", "zh-Hant", "zh-TW", "EN", None, "fr")
    codes += ("kor", "chi_sim", "chi_tra", "deu")
    chosen = [engines.tesseract_language({"language": code}) for code in codes]
    assert chosen == [
        *("ben", "kor", "chi_sim", "chi_sim", "chi_sim", "chi_tra", "chi_tra", "eng", "eng", "fr"),
        *("kor", "chi_sim", "chi_tra", "deu"),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [("가게 12", "kor"), ("汉字", "chi_sim"), ("বাংলা", "ben"), ("TOTAL", "eng"), ("12.50", "eng")],
)
def test_tesseract_language_comes_from_the_script_where_none_is_stated(text, code):
    completion = [{"role": "assistant", "content": text}]
    for stated in ("und", None):
        row = {"language": stated, "completion": completion}
        assert engines.tesseract_language(row) == code


@needs_tesseract
def test_a_missing_language_names_the_debian_package(tmp_path, monkeypatch):
    pytesseract = pytest.importorskip("pytesseract")
    monkeypatch.setattr(pytesseract, "get_languages", lambda: ["eng", "osd"])
    for code, package in (("zh", "chi-sim"), ("ko", "kor"), ("bn", "ben"), ("zh-TW", "chi-tra")):
        data = [rows(1)[0] | {"language": code}]
        with pytest.raises(ValueError, match=rf"install tesseract-ocr-{package}, or .* \(eng\)"):
            evaluate_engine("tesseract", data, tmp_path)


def test_tesseract_that_is_missing_is_one_sentence(tmp_path, monkeypatch):
    pytesseract = pytest.importorskip("pytesseract")

    def missing():
        raise pytesseract.TesseractNotFoundError

    monkeypatch.setattr(pytesseract, "get_tesseract_version", missing)
    korean = [rows(1)[0] | {"language": "ko"}]
    with pytest.raises(RuntimeError, match="apt-get install tesseract-ocr tesseract-ocr-kor`"):
        evaluate_engine("tesseract", korean, tmp_path)


def line_picture(text, size=32):
    font = ImageFont.load_default(size)
    picture = Image.new("L", (int(font.getlength(text)) + 24, size + 24), 255)
    ImageDraw.Draw(picture).text((12, 8), text, font=font, fill=0)
    return picture


def test_rapidocr_reads_lines_and_resumes(tmp_path, monkeypatch):
    data = rows(3)
    for row in data[:2]:
        row["images"] = [line_picture(row["completion"][0]["content"])]
    data[2]["images"] = []
    evaluated = evaluate_engine("rapidocr", data, tmp_path)
    assert [r["prediction"] for r in evaluated.records[:2]] == ["line 0", "line 1"]
    assert all(0.5 < r["confidence"] <= 1 for r in evaluated.records[:2])
    assert evaluated.records[2]["error"] == "the row has no picture"
    asked = []
    monkeypatch.setattr(engines, "_read_with_rapidocr", lambda *a: asked.append(a))
    evaluate_engine("rapidocr", data, tmp_path)
    assert asked == []


def test_rapidocr_reads_a_page_line_by_line():
    page = Image.new("RGB", (740, 740), "white")  # a size that is not enlarged
    for text, place in (("Receipt", (20, 20)), ("TOTAL", (20, 120)), ("9.00", (360, 121))):
        page.paste(line_picture(text), place)
    reading = engines.open_engine("rapidocr", []).read(page, None)
    assert reading.text.split("\n") == ["Receipt", "TOTAL 9.00"]
    assert 0.5 < reading.confidence <= 1


def test_a_blank_picture_reads_as_nothing():
    blank = Image.new("RGB", (300, 40), "white")
    assert engines.open_engine("rapidocr", []).read(blank, None).text == ""


def test_rapidocr_takes_none_of_tesseracts_options(tmp_path):
    with pytest.raises(ValueError, match="are Tesseract's"):
        evaluate_engine("rapidocr", rows(1), tmp_path, language="eng")
    with pytest.raises(ValueError, match="'paddle' is unknown: use rapidocr or tesseract"):
        evaluate_engine("paddle", rows(1), tmp_path)


def test_rapidocr_that_is_missing_is_one_sentence(tmp_path, monkeypatch):
    engines._rapidocr.cache_clear()
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(RuntimeError, match="`pip install rapidocr onnxruntime`"):
        evaluate_engine("rapidocr", rows(1), tmp_path)


@pytest.mark.parametrize(
    ("text", "share", "script"),
    [("Total 9.00", 0, "other"), ("今天", 0, "other"), ("서울 ab", 0.5, "Hangul")],
)
def test_rapidocr_reports_letters_it_cannot_write(text, share, script):
    assert engines.unknown_letters([text]) == (share, script)


def test_rapidocr_refuses_scripts_without_a_model():
    for text in ("আমার সোনার বাংলা", "привет", "สวัสดี", "नमस्ते", "مرحبا"):
        assert engines.unknown_letters([text])[0] > 0.9, text


@pytest.mark.real_data
@needs_tesseract
def test_tesseract_on_a_real_korean_sign(tmp_path):
    reader_of("ko")
    # Without its alpha channel: the kit lays transparent edges on white, and Tesseract takes the
    # white frame of this photograph for text.
    picture = Image.open(real_data("korean_sign") / "korean.png").convert("RGB")
    completion = [{"role": "assistant", "content": "서울 평양"}]
    row = rows(1)[0] | {"images": [picture], "language": "ko", "completion": completion}
    (record,) = evaluate_engine("tesseract", [row], tmp_path).records
    assert "서울" in record["prediction"] and "평양" in record["prediction"]


@pytest.mark.real_data
@needs_tesseract
def test_tesseract_on_real_chinese_lines(tmp_path):
    reader_of("zh")
    convert("hctr", real_data("chinese_lines"), tmp_path / "data", progress=False)
    data = load_dataset("imagefolder", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    evaluated = evaluate_engine("tesseract", next(iter(data.values())), tmp_path)
    assert evaluated.failed == 0 and "wer" not in evaluated.metrics
    # It was made for print: handwriting it reads as Chinese, and wrongly.
    read = "".join(record["prediction"] for record in evaluated.records)
    assert len(regex.findall(r"\p{Han}", read)) > 20
    assert evaluated.metrics["cer"]["value"] > 0.5


@pytest.mark.real_data
@needs_tesseract
def test_tesseract_on_real_bangla_characters(tmp_path):
    reader_of("bn")
    folder = real_data("bangla_characters")
    options = {"image_column": "file", "text_column": "text", "language": "bn", "split": "0,0,1"}
    labels = folder / "labels_by_row_order.tsv"
    convert("table", labels, tmp_path / "data", progress=False, limit=12, **options)
    data = load_dataset("imagefolder", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    evaluated = evaluate_engine("tesseract", data["test"], tmp_path)
    assert evaluated.failed == 0 and evaluated.metrics["cer"]["value"] > 0.5
    read = "".join(record["prediction"] for record in evaluated.records)
    assert regex.search(r"\p{Bengali}", read)


@pytest.mark.real_data
@needs_tesseract
def test_tesseract_on_real_receipt_lines(tmp_path):
    folder = real_data("finance_sroie")
    boxes = sorted((folder / "box").glob("*.csv"))[0]
    page = Image.open(next((folder / "img").glob(boxes.stem + ".*"))).convert("RGB")
    data = []
    for number, line in enumerate(boxes.read_text(encoding="utf-8").splitlines()[:12]):
        *box, text = line.split(",", 8)
        xs, ys = map(int, box[::2]), map(int, box[1::2])
        xs, ys = sorted(xs), sorted(ys)
        crop = page.crop((xs[0], ys[0], xs[-1], ys[-1]))
        completion = [{"role": "assistant", "content": text.strip()}]
        row = {"id": number, "completion": completion, "images": [crop], "language": "en"}
        data.append(row | {"group": boxes.stem})
    evaluated = evaluate_engine("tesseract", data, tmp_path)
    assert evaluated.failed == 0
    assert 0 < evaluated.metrics["cer"]["value"] < 0.6
    assert evaluated.metrics["ned_similarity"]["value"] > 0.5
