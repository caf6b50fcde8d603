import html
import json
import random
import re
import shutil
import subprocess
import time

import pytest
from PIL import Image

from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import Evaluation, score
from ocrkit.evaluation.report import differences, during_training, thumbnail
from tests.helpers.evaluations import BASE, TRUTH, TUNED, records

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


def test_a_report_shows_how_samples_and_weights_changed(tmp_path):
    history = [
        {"step": step, "samples": [{"id": "r1", "reference": "<b>10", "prediction": read}]}
        for step, read in ((5, "<b>1O"), (10, "<b>10"))
    ]
    history += [{"step": step, "confusion_weights": {" ": step / 5, "0": 1.5}} for step in (5, 10)]
    folder = compare(BASE, TUNED).save(tmp_path / "report", history)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;1<del>0</del><ins>O</ins>" in page
    assert page.index(">step 5<") < page.index("CER 20.0 %") < page.index(">step 10<")
    assert "The largest after step 10" in page
    assert "<th>␣</th><th>0</th>" in page and "<td>2.00</td><td>1.50</td>" in page
    bare = (compare(BASE).save(tmp_path / "bare") / "index.html").read_text(encoding="utf-8")
    assert "Samples during training" not in bare and "Weights of confused" not in bare


def test_long_runs_show_the_first_and_the_last_of_their_samples():
    sample = {"id": "r1", "reference": "a", "prediction": "b"}
    training = during_training([{"step": step, "samples": [sample]} for step in range(1, 101)])
    steps = [reading["step"] for reading in training["samples"]["r1"]["readings"]]
    assert len(steps) == 5 and steps[0] == 1 and steps[-1] == 100


def test_a_report_of_one_evaluation_and_of_hostile_text(tmp_path):
    nasty = "<script>alert(1)</script>\ud800|`\u202e"
    folder = compare(score(records([(nasty, nasty * 300), ("", None)]), nasty)).save(tmp_path)
    assert "<script" not in (folder / "index.html").read_text(encoding="utf-8", errors="replace")


def test_report_separates_case_and_space_errors_where_frequent(tmp_path):
    def page(reading):
        evaluation = score(records([("Grand Total", reading), ("Cash", "Cash")]), "tuned")
        folder = compare(evaluation).save(tmp_path / "report", overwrite=True)
        return (folder / "index.html").read_text(encoding="utf-8")

    # Five edits in fifteen characters: three of case, one dropped space, one wrong letter.
    result = page("GRANDTOTAL".replace("GRAND", "GRANd").replace("OTAL", "otaI"))
    row = result[result.index("Without case and spaces") :].split("</table>")[0]
    rates = re.findall(r"([\d.]+) % \[", row)
    assert rates == ["33.3", "13.3", "28.6", "7.1"]
    assert "Without case and spaces" not in page("Gramd Tctel")
    assert "Without case and spaces" not in page("Grand Total")


def test_differences_mark_by_grapheme():
    assert differences("abc", "axcd") == "a<del>b</del><ins>x</ins>c<ins>d</ins>"
    assert differences("ক্ষি", "ক্ষ") == "<del>ক্ষি</del><ins>ক্ষ</ins>"
    assert differences("a b", "ab") == "a<del>␣</del>b"
    assert "more characters" in differences("a", "b" * 5000)


def test_report_of_a_loaded_comparison_shows_pictures_or_that_they_are_missing(tmp_path):
    pairs = [(text, text[:2] + "x") for text in TRUTH]
    for number in range(len(TRUTH)):
        Image.new("L", (90, 30)).save(tmp_path / f"{number}.png")
    pictures = [str(tmp_path / f"{number}.png") for number in range(len(TRUTH))]
    base = [r | {"image": path} for r, path in zip(records(pairs), pictures)]
    saved = score(base, "base").save(tmp_path / "eval" / "base")

    def page():
        folder = compare(Evaluation.load(saved), TUNED).save(tmp_path / "report")
        return (folder / "index.html").read_text(encoding="utf-8")

    result = page()
    # Everything improved, so each sample is shown at least under that heading.
    assert result.count("<img") >= len(TRUTH) and "cannot be opened" not in result
    (tmp_path / "3.png").unlink()
    result = page()
    assert result.count(f"1 of 6 pictures cannot be opened, such as {tmp_path / '3.png'}.") == 1
    assert "<img" in result
    bare = compare(BASE, TUNED).save(tmp_path / "bare") / "index.html"
    assert bare.read_text(encoding="utf-8").count("Without pictures") == 1


def test_report_lists_improved_and_worse_samples(tmp_path):
    mixed = score(records([*((t, t) for t in TRUTH[:4]), (TRUTH[4], "!!"), ("", "")]), "mixed")
    page = (compare(BASE, mixed).save(tmp_path) / "index.html").read_text(encoding="utf-8")
    improved, worse = page.index("What improved"), page.index("What got worse")
    assert "Fewer edits than under base in 5 of 6 samples, more in 1." in page[improved:worse]
    assert differences(TRUTH[0], "TOx") in page[improved:worse]
    assert "More edits than under base in 1 of 6 samples, fewer in 5." in page[worse:]
    assert differences(TRUTH[4], "!!") in page[worse:]


def test_a_picture_on_its_side_is_shown_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 90)).save(tmp_path / "a.jpg", exif=turned)
    small = thumbnail(str(tmp_path / "a.jpg"))
    assert small["width"] > small["height"]


def test_report_thumbnails_are_small_and_optional(tmp_path):
    noise = random.Random(0).randbytes(3 * 2000 * 3000)
    small = thumbnail(lambda: Image.frombytes("RGB", (2000, 3000), noise))
    assert small["height"] <= 520 and len(small["src"]) < 200_000
    Image.new("LA", (30, 10)).save(tmp_path / "a.png")
    assert thumbnail(str(tmp_path / "a.png"))["width"] == 90
    (tmp_path / "b.png").write_bytes(b"no picture")
    for lost in (None, str(tmp_path / "b.png"), str(tmp_path / "none.png")):
        assert thumbnail(lost) is None


def many(count, name, seed):
    rng = random.Random(seed)
    words = [
        "TOTAL 9.00",
        "বাংলাদেশের রাজধানী",
        "서울특별시 종로구",
        "北京大学图书馆",
        "Invoice No. 44",
    ]
    image = Image.effect_noise((900, 80), 60)
    rows = []
    for number in range(count):
        text = words[number % 4]
        read = "".join(c for c in text if rng.random() > 0.15 * seed)
        line = {"id": f"s{number}", "reference": text, "prediction": read, "group": number // 7}
        rows.append({**line, "image": image, "confidence": rng.random(), "finish_reason": "stop"})
    return score(rows, name)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_report_over_many_samples_is_small_and_quick(tmp_path, count):
    comparison = compare(many(count, "base", 2), many(count, "tuned", 1))
    started = time.process_time()
    folder = comparison.save(tmp_path)
    assert time.process_time() - started < 10
    assert (folder / "index.html").stat().st_size < 10_000_000


@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_in_a_browser(tmp_path, width):
    image = Image.new("RGB", (900, 60), "white")
    base = score([{**r, "image": image, "confidence": 0.95} for r in BASE.records], "base")
    tuned = score([{**r, "image": image, "confidence": 0.95} for r in TUNED.records], "tuned")
    compare(base, tuned).save(tmp_path, [{"step": n, "loss": 2 / (n + 1)} for n in range(9)])
    # Pictures below the fold would be left for later, and a broken one go unseen.
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    (tmp_path / "eager.html").write_text(page.replace('loading="lazy"', ""), encoding="utf-8")
    # A frame gives the page the width of a phone, which a window of Chromium cannot take.
    (tmp_path / "frame.html").write_text(
        f'<iframe id=f src="eager.html" style="width:{width}px;height:800px;border:0"></iframe>'
        "<pre id=out></pre><script>f.onload = () => {"
        "const d = f.contentDocument, wide = [];"
        "for (const e of d.querySelectorAll('main *')) {"
        "  const b = e.getBoundingClientRect();"
        "  if (b.right > d.documentElement.clientWidth + 1 && !e.closest('.scroll, svg'))"
        "    wide.push(e.className || e.tagName); }"
        "out.textContent = JSON.stringify({text: d.body.innerText, wide,"
        "  images: [...d.images].map(i => i.naturalWidth),"
        "  charts: d.querySelectorAll('polyline').length}); }</script>"
    )
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-extensions "
    options += "--disable-background-networking --disable-component-update --disable-sync "
    options += "--disable-quic --allow-file-access-from-files --enable-logging=stderr --v=0"
    options += f" --virtual-time-budget=3000 --dump-dom --user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [BROWSER, *options.split(), (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    page = html.unescape(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)[1])
    page = json.loads(page)
    assert page["wide"] == [] and page["charts"] >= 2
    assert page["images"] and all(page["images"])
    for name in ("cer", "exact_match"):
        assert f"{100 * tuned.metrics[name]['value']:.1f} %" in page["text"]
    for text in ("ক্ষুধার্ত মানুষ", "서울특별시", "北京大学", "Suspect labels"):
        assert text in page["text"]
