"""Server reader: OpenAI-compatible chat endpoints (vLLM, SGLang, llama.cpp, Ollama, hosted ones).

The `openai` package sends the requests and repeats those that fail for a while (no connection, no
answer in time, HTTP 408, 409, 429 and 5xx), after growing pauses or the server's own Retry-After.
"""

import asyncio
import base64
import hashlib
import io
import json
import math
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from PIL import Image
from tqdm.auto import tqdm

from data_prep.dataset.schema import one_line
from ocrkit.config import TrainConfig
from ocrkit.data.collate import scaled_pictures
from ocrkit.data.conversation import with_image_parts
from ocrkit.data.patches import fitted
from ocrkit.data.rows import Row, picture_hashes, without_images
from ocrkit.errors import ConfigError
from ocrkit.models.base import resolve_model
from ocrkit.models.budget import image_processor_of, within_budget
from ocrkit.models.confidence import doubtful_spans

if TYPE_CHECKING:
    from datasets import Dataset
    from openai import APIStatusError, AsyncOpenAI
    from openai.types.chat import ChatCompletion

    from ocrkit.models.read import Prediction

    Rows = Dataset | Sequence[Row]

#: Environment variable of the key, as the `openai` package names it.
KEY = "OPENAI_API_KEY"
# Settings that some servers refuse, and the name that they take instead, if any.
_RENAMED = {"max_tokens": "max_completion_tokens", "temperature": None, "logprobs": None}
# Start of the error of a row for which the server gave no answer at all.
_NO_ANSWER = "no answer"
_LONGEST_ERROR = 300  # characters of a server's message that are shown


class ServerReader:
    """Reads rows by a model behind an OpenAI-compatible address, several at once.

    Greedy decoding, `max_new_tokens` at the most. The key is taken from the environment
    (`OPENAI_API_KEY`) and written nowhere.

    Args:
        url: the address up to its version, such as http://localhost:8000/v1.
        model: the model's name on the server.
        config: settings of reading: `max_new_tokens`, `image_height`, `min_pixels`, `max_pixels`.
        requests: number of requests at once.
        timeout: seconds to wait for an answer.
        retries: how often a request is repeated.
        price: of a million tokens read and of a million written, in any currency; None: no cost.
        processor: a model or run folder whose image processor decides the size of pictures; None
            leaves sizes alone within the config's pixel budget.
        doubts: tell of each answer which characters are doubtful.

    Attributes:
        counts: `prompt_tokens` and `completion_tokens`; answers `read`, `failed` and `cut` short.

    Raises:
        ConfigError: the address is none, or holds a password or a key.
        ImportError: `openai` is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        config: TrainConfig,
        requests: int = 8,
        timeout: float = 120.0,
        retries: int = 6,
        price: tuple[float, float] | None = None,
        processor: str | None = None,
        doubts: bool = False,
    ) -> None:
        import openai

        check_url(url)
        self.url, self.model, self.config, self.requests = url, model, config, requests
        self.timeout, self.retries, self.price, self.doubts = timeout, retries, price, doubts
        self.counts: Counter[str] = Counter()
        base = resolve_model(processor)[0] if processor else None
        self.image_processor = image_processor_of(base, config) if base else None
        self._openai = openai
        self._renamed: dict[str, str | None] = {}

    def fingerprint(self, rows: "Rows") -> str:
        """Checksum of server, model, settings, prompts and pictures; weights cannot be seen."""
        config, size = self.config, str(getattr(self.image_processor, "size", None))
        sizes = [config.image_height, config.min_pixels, config.max_pixels, size]
        texts = [[row["id"], row["prompt"]] for row in without_images(rows)]
        settings = self.url.rstrip("/"), self.model, config.max_new_tokens, sizes
        stamp = json.dumps([settings, texts, picture_hashes(rows)])
        return hashlib.sha256(stamp.encode()).hexdigest()[:16]

    def read_stream(self, rows: Iterable[Row]) -> "Iterator[Prediction]":
        """Read rows as they come and yield an answer for each, the first that is there first.

        Before the first row, two small requests tell whether the model is there and sees pictures.
        A row that fails yields an empty prediction and the error's text; confidence is None where
        the server gives no log-probabilities. At the end, or where the
        caller stops, a line on stderr tells tokens, cost and answers that were cut.

        Raises:
            RuntimeError: the server is not there, is no chat endpoint, refuses the key or the
                model, or answers no more; the message never holds the key.
        """
        loop = asyncio.new_event_loop()
        # A thread of its own: notebooks run a loop already. A daemon, so that a stop is a stop.
        threading.Thread(target=loop.run_forever, daemon=True).start()
        client, lost = self._client(), 0
        try:
            asyncio.run_coroutine_threadsafe(self._check(client), loop).result()
            stream, waiting = iter(rows), set["Future[Prediction]"]()
            slots = asyncio.Semaphore(self.requests)
            while True:
                # Twice as many rows as requests: the next pictures are prepared meanwhile.
                for row in islice(stream, 2 * self.requests - len(waiting)):
                    reading = self._read(client, slots, row)
                    waiting.add(asyncio.run_coroutine_threadsafe(reading, loop))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for answer in (future.result() for future in done):
                    lost = lost + 1 if (answer["error"] or "").startswith(_NO_ANSWER) else 0
                    yield answer
                if lost > 2 * self.requests:
                    raise RuntimeError(
                        f"{self.url} answers no more ({lost} rows one after another, each tried "
                        f"{self.retries + 1} times): the same command goes on once it does."
                    )
        finally:
            asyncio.run_coroutine_threadsafe(_end(client), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            if self.counts:
                tqdm.write(self.summary(), file=sys.stderr)

    def summary(self) -> str:
        """Tokens, cost and answers that were cut so far, in a sentence."""
        tokens = self.counts["prompt_tokens"], self.counts["completion_tokens"]
        text = f"{self.model}: {self.counts['read']} read, {self.counts['failed']} failed"
        text += f"; {tokens[0]:,} tokens read and {tokens[1]:,} written"
        if self.price:
            cost = sum(count * price for count, price in zip(tokens, self.price)) / 1e6
            text += f", which cost {cost:,.4f}"
        if self.counts["cut"]:
            most = self.config.max_new_tokens
            text += f"; {self.counts['cut']} answers were cut (max_new_tokens={most} or context)"
        return text + "."

    # --- requests

    def _client(self) -> "AsyncOpenAI":
        # The package asks for a key where a server of one's own needs none.
        key = os.environ.get(KEY) or "none"
        return self._openai.AsyncOpenAI(
            base_url=self.url, api_key=key, timeout=self.timeout, max_retries=self.retries
        )

    async def _check(self, client: "AsyncOpenAI") -> None:
        """Ask once without and once with a picture: is the model there, and does it see?"""
        once = client.with_options(max_retries=1)
        question = [{"role": "user", "content": "Read."}]
        try:
            blind = await self._ask(once, question, 8)
        except Exception as error:  # of the client, the network or the server
            raise RuntimeError(self._why_no_server(error)) from None
        blank = picture_part(Image.new("RGB", (128, 128), "white"))
        content = [blank, {"type": "text", "text": "Read."}]
        try:
            seeing = await self._ask(once, [{"role": "user", "content": content}], 8)
        except self._openai.APIStatusError as error:
            raise RuntimeError(
                f"{self.model} at {self.url} takes no pictures ({self._refusal(error)}): serve a "
                "vision-language model, with llama.cpp also its --mmproj file."
            ) from None
        except Exception as error:  # of the client, the network or the server
            raise RuntimeError(self._why_no_server(error)) from None
        tokens = [usage.prompt_tokens for usage in (blind.usage, seeing.usage) if usage]
        if len(tokens) == 2 and tokens[0] == tokens[1] > 0:
            raise RuntimeError(
                f"{self.model} at {self.url} does not see pictures: a question has {tokens[0]} "
                "tokens with and without one; serve a vision-language model."
            )

    async def _read(
        self, client: "AsyncOpenAI", slots: asyncio.Semaphore, row: Row
    ) -> "Prediction":
        try:
            messages = await asyncio.to_thread(self._messages, row)
            async with slots:
                completion = await self._ask(client, messages, self.config.max_new_tokens)
            return self._answer(row["id"], completion)
        except asyncio.CancelledError:
            raise
        except (self._openai.AuthenticationError, self._openai.PermissionDeniedError) as error:
            raise RuntimeError(self._why_no_server(error)) from None
        except Exception as error:  # any error of a row fails this row alone
            self.counts["failed"] += 1
            return {
                "id": row["id"],
                "prediction": "",
                "confidence": None,
                "finish_reason": "error",
                "error": self._cause(error),
            }

    async def _ask(
        self, client: "AsyncOpenAI", messages: list[dict], most: int
    ) -> "ChatCompletion":
        """Send a request; settings that the server refuses are renamed or left out from then on."""
        while True:
            settings = {"max_tokens": most, "temperature": 0, "logprobs": True}
            for name, other in self._renamed.items():
                value = settings.pop(name)
                settings |= {other: value} if other else {}
            try:
                # The package's types allow only literal messages and named settings.
                create = cast(Any, client.chat.completions.create)
                completion = await create(model=self.model, messages=messages, **settings)
                break
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
                named = [name for name in settings if name in _RENAMED and name in str(error)]
                refused = next(iter(named), None)
                if refused is None:
                    raise
                self._renamed[refused] = _RENAMED[refused]
        # A server of another protocol may answer anything; the package does not check it.
        if not getattr(completion, "choices", None) or completion.choices[0].message is None:
            raise ValueError(f"no chat completion but {one_line(completion)[:80]!r}")
        return completion

    def _messages(self, row: Row) -> list[dict]:
        """A row's prompt in OpenAI's form, its pictures as PNG in data URLs."""
        pictures = [picture_part(picture) for picture in self._pictures(row)]
        unused = iter(pictures)
        messages = []
        for message in with_image_parts(row["prompt"], len(pictures)):
            parts = [
                next(unused) if part["type"] == "image" else part
                for part in cast("list[dict]", message["content"])
            ]
            # Servers of text models take contents that are texts only.
            only_text = all(part["type"] == "text" for part in parts)
            content = "".join(part["text"] for part in parts) if only_text else parts
            messages.append({"role": message["role"], "content": content})
        return messages

    def _pictures(self, row: Row) -> list[Image.Image]:
        pictures = scaled_pictures(row, self.config.image_height)
        if self.image_processor is not None:
            return [fitted(picture, self.image_processor) for picture in pictures]
        low, high = self.config.min_pixels, self.config.max_pixels
        return [within_budget(picture, low, high) for picture in pictures]

    def _answer(self, id: str, completion: "ChatCompletion") -> "Prediction":
        choice = completion.choices[0]
        if completion.usage:
            self.counts["prompt_tokens"] += completion.usage.prompt_tokens or 0
            self.counts["completion_tokens"] += completion.usage.completion_tokens or 0
        if getattr(choice.message, "refusal", None):
            raise ValueError(f"the model refused: {one_line(choice.message.refusal)}")
        text = choice.message.content or ""
        if not isinstance(text, str):
            raise ValueError(f"no text but {one_line(text)[:80]!r}")
        self.counts["read"] += 1
        cut = choice.finish_reason == "length"
        self.counts["cut"] += cut
        logprobs = (choice.logprobs.content if choice.logprobs else None) or []
        values = [token.logprob for token in logprobs if token.logprob is not None]
        mean = min(1.0, math.exp(sum(values) / len(values))) if values else None
        answer: Prediction = {
            "id": id,
            "prediction": text,
            "confidence": None if mean is None else round(mean, 6),
            "finish_reason": "length" if cut else "stop",
            "error": None,
        }
        if self.doubts and "".join(token.token for token in logprobs) == text:
            ends = accumulate(len(token.token) for token in logprobs)
            sure = [math.exp(token.logprob) for token in logprobs]
            answer["doubts"] = doubtful_spans(list(ends), sure)
        return answer

    # --- errors

    def _why_no_server(self, error: Exception) -> str:
        """A sentence on a server that cannot be used at all."""
        kinds = self._openai
        status = getattr(error, "status_code", None)
        if isinstance(error, kinds.AuthenticationError | kinds.PermissionDeniedError):
            has = "the key in" if os.environ.get(KEY) else "requests without a key, as none is in"
            way_out = f"set {KEY} to a key of this server"
            return f"{self.url} refuses {has} {KEY}, HTTP {status}: {way_out}."
        if isinstance(error, kinds.NotFoundError):
            return (
                f"{self.url} has no chat endpoint or no model {self.model!r} "
                f"({self._refusal(error)}): give the address up to /v1, and a model that "
                f"`curl {self.url.rstrip('/')}/models` lists."
            )
        if isinstance(error, kinds.APIConnectionError):
            return (
                f"{self.url} does not answer ({self._cause(error)}): start the server, or give its "
                "address as http://HOST:PORT/v1."
            )
        if isinstance(error, kinds.APIStatusError):
            return f"{self.url} refuses a question to {self.model!r}: {self._refusal(error)}."
        return (
            f"{self.url} does not speak OpenAI's protocol ({self._cause(error)}): give the address "
            "of a chat endpoint up to /v1."
        )

    def _cause(self, error: Exception) -> str:
        kinds = self._openai
        if isinstance(error, kinds.APITimeoutError):
            return f"{_NO_ANSWER} within {self.timeout:g} s"
        if isinstance(error, kinds.APIConnectionError):
            return f"{_NO_ANSWER}: {self._shown(error.__cause__ or error)}"
        if isinstance(error, kinds.APIStatusError):
            return self._refusal(error)
        if isinstance(error, json.JSONDecodeError | kinds.APIResponseValidationError):
            return f"the answer is no JSON ({self._shown(error)})"
        return self._shown(error)

    def _refusal(self, error: "APIStatusError") -> str:
        body = error.body if isinstance(error.body, dict) else {}
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        return f"HTTP {error.status_code}: {self._shown(message or error.response.text or error)}"

    def _shown(self, text: object) -> str:
        """A text on one line, shortened, without the key."""
        line, key = one_line(text) or type(text).__name__, os.environ.get(KEY)
        line = line.replace(key, "...") if key else line
        # Some servers quote a part of the key.
        return re.sub(r"\b(sk-|Bearer )\S+", r"\1...", line)[:_LONGEST_ERROR].rstrip(". ")


async def _end(client: "AsyncOpenAI") -> None:
    """Cancel what is still asked, and close the connections."""
    tasks = asyncio.all_tasks() - {cast("asyncio.Task", asyncio.current_task())}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


def check_url(url: str) -> None:
    """Check the address of a server.

    Raises:
        ConfigError: it is no http address, or holds a password, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        parts.port  # noqa: B018 (raises ValueError where it is no port)
    except ValueError:
        usable = False
    # The address itself is not quoted where it may hold a secret.
    if "@" in url or "?" in url or "#" in url:
        raise ConfigError(
            f"The server's address holds more than host, port and path: leave out the rest; a key "
            f"is taken from {KEY} alone."
        )
    if not usable:
        raise ConfigError(
            f"Server {url!r} is no address: give one such as http://localhost:8000/v1."
        )


def evaluation_name(model: str) -> str:
    """Name of an evaluation of a server's model: the end of the model's name, as a folder name."""
    return re.sub(r"[^\w.-]+", "-", model.rstrip("/").rpartition("/")[2]).strip(".-") or "server"


def picture_part(picture: Image.Image) -> dict:
    """Part of a message that holds a picture, as PNG in a data URL."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
