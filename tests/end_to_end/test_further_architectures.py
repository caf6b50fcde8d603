"""Further architectures, with tiny random models: conversations, counts, batches, whole runs."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText

from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.conversation import ConversationTokenizer, fix_template_variables
from ocrkit.data.lengths import token_lengths
from ocrkit.data.rows import dataset_of
from ocrkit.errors import ConfigError, ModelError, TrainingError
from ocrkit.evaluation.evaluate import evaluate
from ocrkit.models import checks
from ocrkit.models.backend import inference_mode, strict_adapter_loading
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.training.plan import plan
from ocrkit.training.train import train
from tests.helpers.architectures import numbered_rows, tiny_config
from tests.helpers.tiny_architectures import ARCHITECTURES, build

# Checked at every change; the others, and whole runs of all, are slow.
FAST = (
    *("qwen3_5", "glm_ocr", "glm46v", "qwen3_vl_moe", "smolvlm", "lfm2_vl", "lighton_ocr"),
    *("mistral3", "gemma3", "gemma4"),
)
# {refused by a check: (error, its message, why, as the table of models says)}
CAUGHT = {
    "paligemma": (
        TrainingError,
        "would learn to copy labels",
        "its prompt and answer see each other in both directions",
    ),
    "hunyuan_vl": (
        ConfigError,
        "set per_device_train_batch_size=1 and gradient_accumu",
        "transformers numbers the pictures of a batch as if they were one row's",
    ),
    "minicpmv4_6": (
        ConfigError,
        "set per_device_train_batch_size=1 and gradient_accumu",
        "transformers merges windows as if all pictures, and all parts of one, had one size",
    ),
}
# Settings with which a whole run is made nevertheless.
WAYS_OUT = {
    "hunyuan_vl": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "minicpmv4_6": {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "processor_kwargs": {"max_slice_nums": 1},
    },
}
SIZES = [(64, 32), (40, 24), (128, 32), (90, 60), (33, 70), (64, 64), (150, 40), (100, 33)]
# What each template writes between its header for an answer and the answer.
BEFORE_ANSWERS = {
    "qwen3_5": "<think>\n\n</think>\n\n",
    "minicpmv4_6": "<think>\n\n</think>\n\n",
    "glm_ocr": "<think></think>\n",
    "glm46v": "<think></think>\n",
    "gemma4": "<|channel>thought\n<channel|>",
    "ernie4_5_vl_moe": "<think>\n\n</think>\n\n",
}
ENDS = {
    "gemma3": "<end_of_turn>",
    "gemma4": "<turn|>",
    "ernie4_5_vl_moe": "<|end_of_sentence|>",
    "granite4_vision": "<|end_of_text|>",
}


def _slow(names, fast=()):
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Eight rows with pictures of unlike sizes and prompts of unlike lengths."""
    return numbered_rows(tmp_path_factory.mktemp("pictures"), SIZES)


def _processor(name):
    parts = ARCHITECTURES[name]
    return parts.processor(parts.tokens.tokenizer(), parts.template)


def _config(folder, output_dir, **changes) -> TrainConfig:
    own = {"max_steps": 3, "max_new_tokens": 8}
    return tiny_config(folder, output_dir, 8, **{**own, **changes})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prompt_answer_and_end_are_the_rendered_conversation(name, rows):
    processor = _processor(name)
    thinks = "enable_thinking" in processor.chat_template
    assert fix_template_variables(processor, {}) == ({"enable_thinking": False} if thinks else {})
    conversation = ConversationTokenizer(processor)
    rendered = conversation.render(rows[1])
    whole = conversation.whole(rows[1])
    if name in ("gemma4", "ernie4_5_vl_moe"):
        # Their generation prompt holds an empty thought that a conversation lacks.
        header, thought = rendered.prompt.removesuffix(BEFORE_ANSWERS[name]), BEFORE_ANSWERS[name]
        assert rendered.prompt == header + thought
        assert header + rendered.answer + rendered.end == whole
    else:
        assert rendered.prompt + rendered.answer + rendered.end == whole
    assert rendered.prompt.endswith(BEFORE_ANSWERS.get(name, ""))
    (answer,) = conversation.answer_ids([rendered])
    end = processor.tokenizer.convert_ids_to_tokens(answer.ids[-1])
    assert end == ENDS.get(name, processor.tokenizer.eos_token)
    assert conversation.reading(answer.ids[:-1]) == "No. 1x"
    # The tokens of the conversation are those of prompt and answer, one after the other.
    if whole.startswith(rendered.prompt):
        ids = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
        ours = [*conversation.prompt_ids(rendered.prompt), *answer.ids]
        assert ours[:-1] == ids[: len(ours) - 1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counted_tokens_are_collated_tokens_whatever_the_batch(name, rows):
    processor = _processor(name)
    # As a model is loaded: without a thought ERNIE's generation prompt ends with a space.
    fix_template_variables(processor, {})
    collate = Collator(processor)
    chosen = rows[:3] if name in ("deepseek_ocr2", "got_ocr2") else rows
    batch = collate(chosen)
    images, texts = token_lengths(chosen, processor, TrainConfig())
    counts = [image + text for image, text in zip(images, texts)]
    assert counts == batch["attention_mask"].sum(dim=1).tolist()
    single = collate(chosen[1:2])
    width = single["input_ids"].shape[1]
    for key, value in single.items():
        if value.shape[:2] == single["input_ids"].shape:
            assert batch[key][1, :width].tolist() == value[0].tolist(), key
    different = checks.conversation_difference(collate)
    # PaliGemma's processor writes a line break after the prompt.
    assert different == ("input_ids" if name == "paligemma" else "")


@pytest.mark.parametrize("name", _slow(ARCHITECTURES, FAST))
def test_a_model_is_checked_before_it_trains_and_reads(name, rows, tmp_path):
    whole = {"processor_kwargs": WAYS_OUT.get(name, {}).get("processor_kwargs", {})}
    config = _config(build(name, tmp_path / "base"), tmp_path / "run", **whole)
    model, processor = load_model(config)
    assert any(n.endswith(".lora_A.default") for n, _ in model.named_modules())
    collate = Collator(processor)
    assert checks.leaks_labels(model, collate) == (name == "paligemma")
    alike = name not in ("hunyuan_vl", "minicpmv4_6")
    model.train()
    assert checks.trains_alike_in_batches(model, collate) == alike
    assert model.training
    model.eval()
    with inference_mode(model):
        generating = Collator(processor, generation=True)
        assert checks.reads_alike_in_batches(model, generating) == alike
    data = {"train": dataset_of(rows)}
    if name in CAUGHT:
        error, message, _ = CAUGHT[name]
        with pytest.raises(error, match=message):
            train(model, processor, data, config, panel=False)


def test_model_table_gives_the_reason_of_each_limit():
    table = (Path(__file__).parents[2] / "notebooks" / "README.md").read_text()
    assert all(why in table for _, _, why in CAUGHT.values())


def test_a_model_that_depends_on_its_batch_reads_rows_one_by_one(rows, tmp_path, capsys):
    folder = build("hunyuan_vl", tmp_path / "base")
    config = _config(folder, tmp_path / "run")
    model, processor = load_model(config)
    together = predict(model, processor, dataset_of(rows), config)
    assert capsys.readouterr().err.count("so rows are read one by one") == 1
    config.per_device_eval_batch_size = 1
    assert predict(model, processor, dataset_of(rows), config) == together


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n in WAYS_OUT or n not in CAUGHT])
def test_load_train_read_and_merge_of_further_architectures(name, rows, tmp_path):
    data = {"train": dataset_of(rows), "test": dataset_of(rows)}
    more = WAYS_OUT.get(name, {})
    config = _config(build(name, tmp_path / "base"), tmp_path / "run", **more)
    model, processor = load_model(config)
    planned = plan(config, data, model, processor, probe_steps=1)
    assert planned.samples == len(rows) and planned.too_long == 0
    result = train(model, processor, data, config, panel=False)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert len(losses) == 3 and losses[2] < losses[0]
    evaluation = evaluate(model, processor, data["test"], config, name="tuned")
    assert evaluation.failed == 0
    texts = [record["prediction"] for record in evaluation.records]

    again = _config(result.adapter_dir, tmp_path / "again", **more)
    assert predict(*load_model(again), data["test"], again) == texts
    # A merge in 16 bits is rounded, which tips close decisions of random weights.
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with strict_adapter_loading():
        merged = PeftModel.from_pretrained(base, result.adapter_dir).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    alone = _config(tmp_path / "merged", tmp_path / "alone", use_peft=False, **more)
    assert predict(*load_model(alone), data["test"], alone) == texts


def test_a_model_that_fails_on_some_pictures_is_refused_by_the_plan(rows, tmp_path):
    folder = build("minicpmv4_6", tmp_path / "base")
    config = _config(folder, tmp_path / "run")
    model, processor = load_model(config)
    with pytest.raises(ConfigError, match="set per_device_train_batch_size=1"):
        plan(config, {"train": dataset_of(rows)}, model, processor, probe_steps=1)
    # A picture that is cut into parts of another size than that of the whole.
    Image.new("RGB", (320, 139), "white").save(tmp_path / "page.png")
    page = rows[0] | {"id": "page", "images": [str(tmp_path / "page.png")], "sizes": [[320, 139]]}
    page["completion"] = [{"role": "assistant", "content": "the longest row is tried" * 9}]
    data = {"train": dataset_of([*rows, page])}
    config.per_device_train_batch_size = 1
    with pytest.raises(TrainingError, match=r"row 'page' .*; set max_slice_nums in processor_kw"):
        plan(config, data, model, processor, probe_steps=1)


def _fail_in(folder, name, text, by):
    path = folder / name
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, by))


def test_unsupported_model_raises_one_sentence(tmp_path, monkeypatch):
    folder = build("smolvlm", tmp_path / "smolvlm")
    config = _config(folder, tmp_path / "run")
    with monkeypatch.context() as hidden:
        hidden.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
        with pytest.raises(ModelError, match="wants the package num2words"):
            load_model(config)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{{ raise_exception('No pictures, please') }}")
    with pytest.raises(ModelError, match=r"cannot render .* \(No pictures, please\); put one"):
        load_model(config)
    (folder / "chat_template.jinja").write_text(template)
    _fail_in(folder, "config.json", '"model_type": "smolvlm"', '"model_type": "smolvlm9"')
    with pytest.raises(ModelError, match="does not have its smolvlm9"):
        load_model(config)
