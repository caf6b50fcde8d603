import pytest
import torch
from datasets import load_dataset
from PIL import Image

from ocrkit.data.collate import Collator
from ocrkit.data.lengths import picture_sizes, token_lengths
from ocrkit.data.load import load_data
from ocrkit.data.rows import text_of


def _row(text, width=96, height=32, prompt="Transcribe the text in the image."):
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": text}],
        "images": [Image.new("L", (width, height), 255)],
    }


def _labels(processor, batch, row=0):
    labels = batch["labels"][row]
    return processor.tokenizer.decode(labels[labels != -100])


def test_only_the_completion_and_its_end_carry_labels(processor):
    batch = Collator(processor)([_row("TOTAL 9.00"), _row("x")])
    assert _labels(processor, batch) == "TOTAL 9.00<|im_end|>"
    assert _labels(processor, batch, 1) == "x<|im_end|>"
    whole = processor.tokenizer.decode(batch["input_ids"][0])
    assert whole.endswith("assistant\nTOTAL 9.00<|im_end|>")


def test_a_pad_token_equal_to_the_end_token_masks_no_label(processor):
    tokenizer = processor.tokenizer
    pad = tokenizer.pad_token
    tokenizer.pad_token = tokenizer.eos_token
    try:
        batch = Collator(processor)([_row("TOTAL 9.00"), _row("x")])
        assert _labels(processor, batch, 1) == "x<|im_end|>"
        assert batch["attention_mask"][1].sum() < batch["attention_mask"][0].sum()
    finally:
        tokenizer.pad_token = pad


def test_collated_ids_and_pixels_equal_the_processors(processor):
    row = _row("Ab 1", width=150)
    batch = Collator(processor)([row])
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": row["images"][0].convert("RGB")},
                {"type": "text", "text": row["prompt"][0]["content"]},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Ab 1"}]},
    ]
    theirs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt"
    )
    # Theirs ends with the template's line break, which is never generated.
    assert batch["input_ids"].tolist() == theirs["input_ids"][:, :-1].tolist()
    assert torch.equal(batch["pixel_values"], theirs["pixel_values"])
    assert torch.equal(batch["image_grid_thw"], theirs["image_grid_thw"])
    assert batch["mm_token_type_ids"].tolist() == theirs["mm_token_type_ids"][:, :-1].tolist()


def test_generation_pads_prompts_on_the_left(processor):
    batch = Collator(processor, generation=True)([_row("secret", 200), _row("", 48)])
    assert "labels" not in batch
    assert "secret" not in processor.tokenizer.decode(batch["input_ids"][0])
    assert batch["attention_mask"][1, 0] == 0 and batch["attention_mask"][1, -1] == 1


def test_completions_keep_leading_and_trailing_blanks(processor):
    assert _labels(processor, Collator(processor)([_row(" a  b ")])) == " a  b <|im_end|>"


def test_pictures_are_never_shrunk_without_a_setting(processor):
    # Unsloth's own collator would make 512 x 22 pixels of this.
    batch = Collator(processor)([_row("x", 1500, 64)])
    _, rows, columns = batch["image_grid_thw"][0].tolist()
    assert (rows * 8, columns * 8) == (64, 1504)


def test_image_height_scales_lines(processor):
    batch = Collator(processor, image_height=32)([_row("x", 300, 60)])
    assert batch["image_grid_thw"][0].tolist() == [1, 4, 20]


def test_lengths_are_those_of_collated_samples(processor, config):
    rows = load_data(config)["train"].select(range(10))
    images, texts = token_lengths(rows, processor, config)
    collate = Collator(processor, config.image_height)
    for row, image, text in zip(rows, images, texts):
        assert collate([row])["input_ids"].shape[1] == image + text


def test_sizes_follow_image_height(config):
    rows = load_data(config)["train"]
    assert picture_sizes(rows, 64)[0] == [(64, rows[0]["width"] * 2)]


def test_a_template_that_hides_the_prompt_is_refused(processor):
    template = processor.chat_template
    processor.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    try:
        with pytest.raises(ValueError, match="completion-only labels cannot be placed"):
            Collator(processor)([_row("x")])
    finally:
        processor.chat_template = template


def test_trls_own_collator_takes_converted_rows(thermal, processor):
    """No code of the kit between the folder and the batch."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    rows = load_dataset("imagefolder", data_dir=str(thermal))["train"]
    texts = [text_of(completion) for completion in rows["completion"][:2]]
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    batch = collate([rows[0], rows[1]])
    ours = Collator(processor)([rows[0], rows[1]])
    assert torch.equal(batch["pixel_values"], ours["pixel_values"])
    for row, text in enumerate(texts):
        assert _labels(processor, batch, row).startswith(text + "<|im_end|>")
        assert _labels(processor, ours, row) == text + "<|im_end|>"


def test_all_pictures_of_a_row_are_collated(processor, config):
    pictures = [Image.new("RGB", (width, 32), "white") for width in (160, 320)]
    row = {**_row("x"), "images": pictures, "sizes": [picture.size for picture in pictures]}
    (images,), (texts,) = token_lengths([row], processor, config)
    batch = Collator(processor, config.image_height)([row])
    assert images + texts == int(batch["attention_mask"].sum())
