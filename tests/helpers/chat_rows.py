"""Chat rows as LLaVA and OpenAI write them."""


def turns(*values):
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def messages(*values):
    return [{"role": ("user", "assistant")[i % 2], "content": v} for i, v in enumerate(values)]


def part(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
