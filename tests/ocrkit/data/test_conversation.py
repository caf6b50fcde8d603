import copy
import math

import pytest

from ocrkit.data.conversation import (
    ConversationTokenizer,
    RowRefused,
    control_ids,
    fix_template_variables,
    token_characters,
    with_image_parts,
)
from ocrkit.data.rows import IMAGE_MARK
from ocrkit.errors import ConfigError


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


def _with_template(processor, template):
    """A processor like the embedded model's with another chat template."""
    processor = copy.copy(processor)
    processor.chat_template = template
    return ConversationTokenizer(processor)


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{{ HEAD }}{% endif %}"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{{ START }}{% endif %}"
)


def _chatml(head, start="''"):
    return CHATML.replace("HEAD", head).replace("START", start)


def test_answer_position_follows_the_template(processor):
    thought = "'<think>\\n\\n</think>\\n\\n'"
    for start in ("''", "'<think>\\n'", thought):
        conversation = _with_template(processor, _chatml(thought, start))
        rendered = conversation.render(row("ab"))
        assert rendered.prompt.endswith("assistant\n<think>\n\n</think>\n\n")
        assert "".join(rendered) == conversation.whole(row("ab"))


def test_generation_prompt_outside_the_conversation_is_kept(processor):
    conversation = _with_template(processor, _chatml("''", "'<think>\\n\\n</think>\\n\\n'"))
    rendered = conversation.render(row("ab"))
    assert rendered.prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert rendered.end == "<|im_end|>\n"


@pytest.mark.parametrize(("text", "written"), [("part.text", " a  b "), ("part.text|trim", "a  b")])
def test_an_answer_is_stripped_as_the_template_strips_it(processor, text, written):
    template = _chatml("''").replace("{{ part.text }}", "{{ " + text + " }}")
    conversation = _with_template(processor, template)
    rendered = conversation.render(row(" a  b "))
    assert rendered.answer == written
    assert "".join(rendered) == conversation.whole(row(" a  b "))


def test_a_template_that_fails_on_a_row_refuses_it(processor):
    template = _chatml("''") + "{% if messages|length > 2 %}{{ 1 / 0 }}{% endif %}"
    conversation = _with_template(processor, template)
    assert conversation.render(row("ab")).answer == "ab"
    turns = row("ab")
    turns["prompt"] = [{"role": "system", "content": "You read."}, *turns["prompt"]]
    with pytest.raises(RowRefused, match="refused by the chat template: division by zero"):
        conversation.render(turns)


def test_a_template_that_takes_an_assistants_turn_as_a_text_is_rendered(processor):
    template = _chatml("''").replace(
        "{% for part in message.content %}",
        "{% if message.role == 'assistant' %}{{ message.content + '' }}{% endif %}"
        "{% for part in message.content if part is mapping %}",
    )
    assert _with_template(processor, template).render(row("ab")).answer == "ab"


def test_variables_of_a_template_are_fixed_and_thinking_is_off(processor):
    thought = "('<think>\\n\\n</think>\\n\\n' if enable_thinking is false else '<think>\\n')"
    thinking = copy.copy(processor)
    thinking.chat_template = _chatml("'<think>\\n\\n</think>\\n\\n'", thought)
    open_thought = ConversationTokenizer(thinking)
    header = open_thought._template(with_image_parts(row()["prompt"], 1), add_generation_prompt=1)
    assert header.endswith("<think>\n")
    assert fix_template_variables(thinking, {}) == {"enable_thinking": False}
    again = ConversationTokenizer(thinking)
    header = again._template(with_image_parts(row()["prompt"], 1), add_generation_prompt=1)
    assert header.endswith("</think>\n\n")
    # What is fixed stays as it is when the model is saved and loaded.
    assert fix_template_variables(thinking, {}) == {}
    assert fix_template_variables(thinking, {"enable_thinking": True}) == {"enable_thinking": True}
    header = again._template(with_image_parts(row()["prompt"], 1), add_generation_prompt=1)
    assert header.endswith("<think>\n")
    with pytest.raises(ConfigError, match="no variable 'enable_thinkin'"):
        fix_template_variables(thinking, {"enable_thinkin": True})
    template = processor.chat_template
    assert fix_template_variables(processor, {}) == {} and processor.chat_template == template
