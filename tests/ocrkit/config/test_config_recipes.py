"""What the recipes say of their models, held against the processors and models themselves."""

import re
import shlex

import pytest
import yaml
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Glm46VImageProcessor,
    MllamaImageProcessor,
    PaddleOCRVLImageProcessor,
    Qwen2VLImageProcessor,
)

from ocrkit.config import RECIPES, TrainConfig, recipes
from ocrkit.data.lengths import picture_canvases, picture_tokens
from ocrkit.models.adapters import lora_targets
from ocrkit.models.base import TINY
from ocrkit.models.budget import apply_pixel_budget
from tests.helpers import architectures, tiny_architectures

# What the recipes' models publish as preprocessor_config.json. That of PaddleOCR-VL-1.6 is of
# revision c5630aba (boomerkuigi/paddleocr-vl-1.6-manga-sft records it), that of GLM-OCR of
# revision 2e85a628, that of Qwen3.5-2B of 2026-07-05, as public logs print them.
QWEN2 = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2}
QWEN3 = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16}
PADDLE = {"min_pixels": 112896, "max_pixels": 1003520, "patch_size": 14, "merge_size": 2}
GLM = {"size": {"shortest_edge": 12544, "longest_edge": 9633792}, "patch_size": 14}
LLAMA = {"size": {"height": 560, "width": 560}, "max_image_tiles": 4}
MODELS = {
    "bangla": ("qwen3_vl", Qwen2VLImageProcessor, QWEN3),
    "korean": ("qwen2_vl", Qwen2VLImageProcessor, QWEN2),
    "chinese": ("qwen3_vl", Qwen2VLImageProcessor, QWEN3),
    "qwen3_5": ("qwen3_5", Qwen2VLImageProcessor, QWEN3),
    "glm_ocr": ("glm_ocr", Glm46VImageProcessor, GLM),
    "financial": ("paddleocr_vl", PaddleOCRVLImageProcessor, PADDLE),
    "vqa": ("mllama", MllamaImageProcessor, LLAMA),
}


def _said(name: str) -> str:
    """The recipe's comments as one text."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    return " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def test_every_recipe_of_a_published_model_has_its_processor():
    assert set(MODELS) == set(recipes()) - {"quickstart", "tiny", "receipts"}


@pytest.mark.parametrize("name", MODELS)
def test_tokens_of_pictures_are_those_of_the_processor(name):
    _, kind, published = MODELS[name]
    config = TrainConfig.from_recipe(name)
    # The embedded model's tokenizer and template; pictures as the recipe's model takes them.
    processor = AutoProcessor.from_pretrained(TINY)
    processor.image_processor = kind(**published)
    apply_pixel_budget(processor, config)
    stated = re.findall(r"of (\d+) x (\d+) pixels: ([\d,]+) (token|tile)s?", _said(name))
    assert len(stated) == 3
    for width, height, count, unit in stated:
        rows = [{"sizes": [[int(width), int(height)]]}]
        if unit == "tile":
            assert picture_canvases(rows, processor, config)[0][0][0] == _number(count)
        else:
            assert picture_tokens(rows, processor, config) == [_number(count)]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vqa"])
def test_pixel_budget_bounds_the_tokens_named_in_the_recipe(name):
    config = TrainConfig.from_recipe(name)
    side, fewest, most = re.search(
        r"covers (\d+) x \d+ pixels, and a picture takes ([\d,]+) to ([\d,]+) of them", _said(name)
    ).groups()
    published = MODELS[name][2]
    assert int(side) == 2 * published["patch_size"]
    assert -(-config.min_pixels // int(side) ** 2) == _number(fewest)
    assert config.max_pixels // int(side) ** 2 == _number(most)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_are_on_the_layers_named_in_the_recipe(name, tmp_path):
    architecture = MODELS[name][0]
    known = architecture in architectures.ARCHITECTURES
    build = architectures.build if known else tiny_architectures.build
    model = AutoModelForImageTextToText.from_pretrained(build(architecture, tmp_path))
    layers: dict[str, set] = {"vision": set(), "language": set()}
    for path in lora_targets(model, TrainConfig.from_recipe(name)):
        tower = "vision" if re.search("visual|vision_model", path) else "language"
        layers[tower].add(path.rpartition(".")[2])
    vision, language = re.search(
        r"Adapters go on ([\w, ]+) of the vision tower and ([\w, ]+) of the language", _said(name)
    ).groups()
    assert layers == {"vision": set(vision.split(", ")), "language": set(language.split(", "))}


def test_tokens_per_tile_equal_the_recipes_figure():
    from transformers import MllamaConfig

    vision = MllamaConfig().vision_config
    side = LLAMA["size"]["height"]
    assert (side // vision.patch_size) ** 2 + 1 == _number(
        re.search(r"tile is ([\d,]+) tokens", _said("vqa"))[1]
    )


@pytest.mark.parametrize("name", ["bangla", "korean", "chinese"])
def test_replay_sample_is_drawn_by_the_command_in_the_recipe(name, capsys):
    from data_prep import synthesize

    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    replay = yaml.safe_load(re.search("^# (replay: .*)$", text, re.MULTILINE)[1])
    assert TrainConfig.from_recipe(name, **replay).replay_share == 0.25
    command = shlex.split(re.search("`(python -m data_prep.synthesize .*)`", _said(name))[1])
    assert command[-2:] == ["--out", replay["replay"]]
    # Known arguments, but so few that it is refused before anything is drawn.
    assert synthesize.main([*command[3:], "--count", "0"]) == 2
    assert "count" in capsys.readouterr().err


def test_recipe_prompts_are_their_models_documented_prompts():
    assert TrainConfig.from_recipe("financial").prompts == {"transcription": "OCR:"}
    for name in ("bangla", "korean", "chinese"):
        assert name.title() in TrainConfig.from_recipe(name).prompts["transcription"]
    assert TrainConfig.from_recipe("glm_ocr").prompts == {"transcription": "Text Recognition:"}
    # Questions are their own prompts.
    assert TrainConfig.from_recipe("vqa").prompts == {}


@pytest.mark.parametrize("name", MODELS)
def test_gpu_recipes_load_the_best_checkpoint_at_the_end(name):
    config = TrainConfig.from_recipe(name)
    assert config.eval_steps and config.save_steps == config.eval_steps
    assert config.load_best_model_at_end and config.metric_for_best_model
    assert "learning rate of" in _said(name) or "learning rate, epochs" in _said(name)
