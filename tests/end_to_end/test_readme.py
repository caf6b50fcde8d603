"""Commands of the front page, run in their order as they stand, on a small SROIE folder.

Recipes are shortened to two steps: what they reach is measured elsewhere.
"""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw, ImageFont

from ocrkit import config

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.S | re.M)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    for line in block.replace("\\\n", "").splitlines()
    if language == "" and line.strip()
]


def text_lines(receipt: int) -> list[str]:
    return [f"SHOP {receipt}", f"TEA {receipt}.50", f"TOTAL {receipt}.50"]


def draw_receipts(folder: Path, count: int = 10) -> None:
    """SROIE's layout: img/NAME.jpg, and box/NAME.csv with eight coordinates and a text a line."""
    (folder / "img").mkdir(parents=True)
    (folder / "box").mkdir()
    font = ImageFont.load_default(24)
    for receipt in range(count):
        page = Image.new("RGB", (240, 120), "white")
        boxes = []
        for at, text in enumerate(text_lines(receipt)):
            top = 40 * at
            ImageDraw.Draw(page).text((8, top + 4), text, "black", font)
            corners = (0, top, 240, top, 240, top + 38, 0, top + 38)
            boxes.append(",".join([*map(str, corners), text]))
        page.save(folder / "img" / f"{receipt:03}.jpg")
        (folder / "box" / f"{receipt:03}.csv").write_text("\n".join(boxes), encoding="utf-8")


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    recipes = tmp_path / "short-recipes"
    shutil.copytree(config.RECIPES, recipes)
    settings = yaml.safe_load((recipes / "receipts.yaml").read_text("utf-8"))
    settings |= {"max_steps": 2, "eval_steps": 1, "save_steps": 1, "eval_samples": 2}
    settings |= {"per_device_train_batch_size": 4}
    (recipes / "receipts.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.setattr(config, "RECIPES", recipes)
    monkeypatch.chdir(tmp_path)
    draw_receipts(tmp_path / "SROIE2019")
    (tmp_path / "lines").mkdir()
    page = Image.open(tmp_path / "SROIE2019" / "img" / "000.jpg")
    page.crop((0, 0, 240, 38)).save(tmp_path / "lines" / "first.png")
    shutil.copytree(tmp_path / "lines", tmp_path / "pictures")
    (tmp_path / "labels.csv").write_text("image,text\nfirst.png,SHOP 0\n", encoding="utf-8")
    return tmp_path


def run(command: list[str]) -> int:
    """Run `python -m MODULE ...` in this process; returns the exit code."""
    python, option, module, *arguments = command
    assert (python, option) == ("python", "-m"), command
    name = f"{module}.__main__" if module == "ocrkit" else module
    return importlib.import_module(name).main(arguments)


def test_the_front_page_has_commands():
    assert ["make", "demo"] in COMMANDS and ["make", "test"] in COMMANDS
    modules = {command[2] for command in COMMANDS if command[0] == "python"}
    assert {"ocrkit", "data_prep.convert", "data_prep.validate"} <= modules


def test_every_command_of_the_front_page_runs_as_it_stands(working_folder, capsys):
    skipped = set()
    for command in COMMANDS:
        if command[0] == "make":
            continue
        if "tesseract" in command and shutil.which("tesseract") is None:
            skipped.add("runs/s1/eval/tesseract")
            continue
        if skipped & {*command}:
            continue
        # Two steps do not reach the rate that the page asks for, which is exit code 1.
        expected = (0, 1) if "--fail-if" in command else (0,)
        code = run(command)
        output = capsys.readouterr()
        assert code in expected, (command, output.out[-500:], output.err[-500:])
    assert (working_folder / "predictions.jsonl").is_file()
    assert (working_folder / "data" / "mine" / "train" / "metadata.jsonl").is_file()
    assert (working_folder / "runs" / "s1" / "merged" / "model.safetensors").is_file()
    assert skipped or (working_folder / "runs" / "s1" / "report" / "index.html").is_file()


def test_the_python_of_the_front_page_runs_as_it_stands(working_folder, capsys):
    convert = next(command for command in COMMANDS if "sroie" in command)
    assert run(convert) == 0
    (code,) = (block for language, block in BLOCKS if language == "python")
    exec(code, {})
    assert (working_folder / "runs" / "s1" / "report" / "index.html").is_file()
    assert (working_folder / "runs" / "s1" / "merged" / "model.safetensors").is_file()
