"""Conversations of the recipes, as the chat templates that their models publish render them.

Those of Qwen2-VL and Qwen3-VL, and of further models, are the published files themselves, of which
TRL holds copies (`trl/chat_templates`). The others are typed from the models' chat_template.jinja
as public copies show it, without the parts for tools, videos and system messages:

* GLM-OCR: zai-org/GLM-OCR, as a test of llamadart holds it, read 2026-11-29
* Qwen3.5: as llama.cpp prints it of a Qwen3.5-122B, in a test of a public proxy, read 2026-11-29;
  that of the 2B, as far as quoted, differs in where it thinks unasked, not in what is off
* PaddleOCR-VL: PaddlePaddle/PaddleOCR-VL, Apache-2.0, read 2026-11-29; a public port of version 1.6
  names the same header, "Assistant:" and a line break
* Llama-3.2-Vision: meta-llama/Llama-3.2-11B-Vision-Instruct, as two public scripts set it, which
  are alike, read 2026-11-29
"""

from pathlib import Path

import pytest
import trl
from transformers import AutoProcessor

from ocrkit.config import TrainConfig, recipes
from ocrkit.data.conversation import ConversationTokenizer, fix_template_variables
from tests.helpers import architectures, tiny_architectures

GLM_OCR = """[gMASK]<sop>
{%- macro visible_text(content) -%}
    {%- if content is string -%}
        {{- content }}
    {%- else -%}
        {%- for item in content -%}
            {%- if item.type == 'text' -%}
                {{- item.text }}
            {%- elif item.type == 'image' -%}
                <|begin_of_image|><|image|><|end_of_image|>
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{% for m in messages %}
{%- if m.role == 'user' -%}<|user|>
{% if m.content is string %}
{{ m.content }}
{%- else %}
{%- for item in m.content %}
{% if item.type == 'image' or 'image' in item %}
<|begin_of_image|><|image|><|end_of_image|>{% elif item.type == 'text' %}
{{ item.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '/nothink' if (enable_thinking is defined and not enable_thinking) else '' -}}
{%- elif m.role == 'assistant' -%}
<|assistant|>
{%- set content = visible_text(m.content) %}
{{ '\\n<think></think>' }}
{%- if content.strip() -%}
{{ '\\n' + content.strip() }}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{{'<think></think>\\n' if (enable_thinking is defined and not enable_thinking) else ''}}
{%- endif -%}"""

QWEN3_5 = """{%- macro render_content(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for item in content %}
            {%- if 'image' in item or item.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in item %}
                {{- item.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- for message in messages %}
    {%- set content = render_content(message.content)|trim %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n<think>\\n\\n</think>\\n\\n' + content }}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- else %}
        {{- '<think>\\n' }}
    {%- endif %}
{%- endif %}"""

PADDLEOCR_VL = """{%- if not add_generation_prompt is defined -%}
    {%- set add_generation_prompt = true -%}
{%- endif -%}
{%- if not cls_token is defined -%}
    {%- set cls_token = "<|begin_of_sentence|>" -%}
{%- endif -%}
{%- if not eos_token is defined -%}
    {%- set eos_token = "</s>" -%}
{%- endif -%}
{{- cls_token -}}
{%- for message in messages -%}
    {%- if message["role"] == "user" -%}
        {{- "User: " -}}
        {%- for content in message["content"] -%}
            {%- if content["type"] == "image" -%}
                {{ "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>" }}
            {%- endif -%}
        {%- endfor -%}
        {%- for content in message["content"] -%}
            {%- if content["type"] == "text" -%}
                {{ content["text"] }}
            {%- endif -%}
        {%- endfor -%}
        {{ "\\n" -}}
    {%- elif message["role"] == "assistant" -%}
        {{- "Assistant:\\n" -}}
        {%- for content in message["content"] -%}
            {%- if content["type"] == "text" -%}
                {{ content["text"] }}
            {%- endif -%}
        {%- endfor -%}
        {{ eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "Assistant:\\n" -}}
{%- endif -%}
"""

LLAMA = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for content in message['content'] %}
            {%- if content['type'] == 'image' %}
                {{- '<|image|>' }}
            {%- elif content['type'] == 'text' %}
                {{- content['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""


def _published(name: str) -> str:
    """A template of the models' own, as TRL holds it."""
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


_QWEN = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"

# {recipe: (template, text before the answer, text after it)}
CONVERSATIONS = {
    "bangla": (
        _published("qwen3_vl"),
        _QWEN + "Transcribe the handwritten Bangla text in the image.<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "chinese": (
        _published("qwen3_vl"),
        _QWEN + "Transcribe the handwritten Chinese text in the image.<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "korean": (
        _published("qwen2_5_vl"),
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        + _QWEN
        + "Transcribe the Korean text in the image.<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "vqa": (
        LLAMA,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>How many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "glm_ocr": (
        GLM_OCR,
        "[gMASK]<sop><|user|>\n<|begin_of_image|><|image|><|end_of_image|>Text Recognition:"
        "<|assistant|>\n<think></think>\n",
        "",
    ),
    "qwen3_5": (
        QWEN3_5,
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Transcribe the text in the "
        "image.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>\n",
    ),
    "financial": (
        PADDLEOCR_VL,
        "<|begin_of_sentence|>User: <|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>OCR:\n"
        "Assistant:\n",
        "</s>",
    ),
}


# Architectures of the recipes that are built in the other file of tiny models.
_FIRST = {
    "bangla": "qwen3_vl",
    "chinese": "qwen3_vl",
    "korean": "qwen2_vl",
    "vqa": "mllama",
    "financial": "paddleocr_vl",
}
# {template of TRL: architecture, text between the assistant's header and the answer}
FURTHER = {
    "qwen3_5_nothink": ("qwen3_5", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "qwen3_5_think": ("qwen3_5", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "idefics3": ("idefics3", "Assistant:"),
    "smolvlm": ("smolvlm", "Assistant:"),
    "gemma3": ("gemma3", "<start_of_turn>model\n"),
    "gemma4_v5": ("gemma4", "<|turn>model\n"),
    "lfm2_2_5_vl": ("lfm2_vl", "<|im_start|>assistant\n"),
}


def _row(question: str) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "images": [None],
        "completion": [{"role": "assistant", "content": "TOTAL 9.00"}],
    }


def test_every_recipe_of_a_published_model_has_its_conversation():
    assert set(CONVERSATIONS) == set(recipes()) - {"quickstart", "tiny", "receipts"}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_recipe_prompt_is_rendered_as_by_the_published_template(name, tmp_path):
    template, before, after = CONVERSATIONS[name]
    config = TrainConfig.from_recipe(name)
    if name in _FIRST:
        processor = AutoProcessor.from_pretrained(architectures.build(_FIRST[name], tmp_path))
    else:
        processor, _ = tiny_architectures.make(name)
    processor.chat_template = template
    fix_template_variables(processor, config.chat_template_kwargs)
    row = _row((config.prompts or {}).get("transcription", "How many?"))
    conversation = ConversationTokenizer(processor)
    rendered = conversation.render(row)
    assert (rendered.prompt, rendered.answer, rendered.end) == (before, "TOTAL 9.00", after)
    assert before + "TOTAL 9.00" + after == conversation.whole(row)


@pytest.mark.parametrize("name", FURTHER)
def test_published_template_of_a_further_model_is_kept_whole(name):
    architecture, header = FURTHER[name]
    parts = tiny_architectures.ARCHITECTURES[architecture]
    processor = parts.processor(parts.tokens.tokenizer(), _published(name))
    fix_template_variables(processor, {})
    conversation = ConversationTokenizer(processor)
    rendered = conversation.render(_row("Read."))
    assert rendered.prompt.endswith(header) and "Read." in rendered.prompt
    whole = conversation.whole(_row("Read."))
    assert rendered.prompt + rendered.answer + rendered.end == whole
    (answer,) = conversation.answer_ids([rendered])
    assert conversation.reading(answer.ids[:-1]) == "TOTAL 9.00"
