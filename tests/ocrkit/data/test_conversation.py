import math

import pytest

from ocrkit.data.conversation import (
    ConversationTokenizer,
    RowRefused,
    control_ids,
    token_characters,
    with_image_parts,
)
from ocrkit.data.rows import IMAGE_MARK


def row(text="ab", prompt="Read."):
    messages = [{"role": "user", "content": prompt}]
    completion = [{"role": "assistant", "content": text}]
    return {"prompt": messages, "completion": completion, "images": [None], "sizes": [(64, 32)]}


def test_pictures_stand_before_the_first_question_or_at_their_marks():
    (plain,) = with_image_parts([{"role": "user", "content": "Read."}], 2)
    assert [part["type"] for part in plain["content"]] == ["image", "image", "text"]
    (marked,) = with_image_parts([{"role": "user", "content": f"a{IMAGE_MARK}b"}], 1)
    assert [part.get("text") for part in marked["content"]] == ["a", None, "b"]


def test_a_rendered_row_is_prompt_answer_and_end(processor):
    rendered = ConversationTokenizer(processor).render(row("ab"))
    assert rendered.answer == "ab" and rendered.prompt.endswith("assistant\n")
    messages = with_image_parts(row()["prompt"], 1)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "ab"}]}
    whole = processor.apply_chat_template([*messages, answer], tokenize=False)
    assert rendered.prompt + rendered.answer + rendered.end == whole


def test_an_answer_ends_with_the_end_of_turn(processor):
    conversation = ConversationTokenizer(processor)
    (answer,) = conversation.answer_ids([conversation.render(row("ab"))])
    assert answer.ids[-1] == processor.tokenizer.eos_token_id and not answer.spelt
    assert processor.tokenizer.decode(answer.ids[:-1]) == "ab"


def test_control_tokens_are_refused_in_a_prompt_and_spelt_in_an_answer(processor):
    conversation = ConversationTokenizer(processor)
    end = processor.tokenizer.eos_token
    with pytest.raises(RowRefused, match="control token in the prompt"):
        conversation.render(row(prompt=f"Read. {end}"))
    (answer,) = conversation.answer_ids([conversation.render(row(f"a{end}b"))])
    controls = control_ids(processor, processor.tokenizer)
    assert answer.spelt and controls.isdisjoint(answer.ids[:-1])


def test_characters_of_tokens_cover_a_text(processor):
    characters = token_characters(processor.tokenizer, "año 7")
    assert {code for token in characters for code in token} == set(map(ord, "año 7"))
    assert not any(map(math.isinf, map(len, characters)))
