"""Conversations of the recipes, as the chat templates that their models publish render them.

The templates are typed from the models' chat_template.jinja as public copies show it, without the
parts for tools, videos and system messages:

* GLM-OCR: zai-org/GLM-OCR, as a test of llamadart holds it, read 2026-11-29
* Qwen3.5: as llama.cpp prints it of a Qwen3.5-122B, in a test of a public proxy, read 2026-11-29;
  that of the 2B, as far as quoted, differs in where it thinks unasked, not in what is off
* PaddleOCR-VL: PaddlePaddle/PaddleOCR-VL, Apache-2.0, read 2026-11-29; a public port of version 1.6
  names the same header, "Assistant:" and a line break
"""

import pytest
from transformers import AutoProcessor

from ocrkit.config import TrainConfig
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

# {recipe: (template, text before the answer, text after it)}
CONVERSATIONS = {
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


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_recipe_asks_as_the_published_template_does(name, tmp_path):
    template, before, after = CONVERSATIONS[name]
    config = TrainConfig.from_recipe(name)
    if name == "financial":
        processor = AutoProcessor.from_pretrained(architectures.build("paddleocr_vl", tmp_path))
    else:
        processor, _ = tiny_architectures.make(name)
    processor.chat_template = template
    fix_template_variables(processor, config.chat_template_kwargs)
    row = {
        "prompt": [{"role": "user", "content": config.prompts["transcription"]}],
        "images": [None],
        "completion": [{"role": "assistant", "content": "TOTAL 9.00"}],
    }
    conversation = ConversationTokenizer(processor)
    rendered = conversation.render(row)
    assert (rendered.prompt, rendered.answer, rendered.end) == (before, "TOTAL 9.00", after)
    assert before + "TOTAL 9.00" + after == conversation.whole(row)
