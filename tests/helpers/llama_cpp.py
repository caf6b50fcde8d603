"""llama.cpp for tests: a patched copy and a model that it can convert and read with.

llama.cpp cannot convert the embedded model: it knows tokenizers by name, and Qwen's vision towers
with two frames a patch.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ocrkit.models.base import TINY

_NEEDED = (
    *("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion", "gguf-py"),
    *("llama-quantize", "llama-mtmd-cli"),
)
#: Name of the model in the command that the page on servers shows.
SERVED_NAME = "s1"
_PAGE = Path(__file__).parents[2] / "notebooks" / "README.md"
_UNKNOWN = 'raise NotImplementedError("BPE pre-tokenizer was not recognized'


def patched_llama_cpp(source: Path, folder: Path) -> Path:
    """Copy a built llama.cpp and patch its converter to treat unknown tokenizers as GPT-2's."""
    for name in _NEEDED:
        path = _part(source, name)
        assert path, f"{source} has no {name}"
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, folder / name)
    converter = folder / "conversion" / "base.py"
    text = converter.read_text(encoding="utf-8")
    assert _UNKNOWN in text
    converter.write_text(text.replace(_UNKNOWN, f'return "gpt-2"\n{" " * 12}{_UNKNOWN}'))
    return folder


def llama_server() -> Path | None:
    """Path of `llama-server` in the built llama.cpp of UNSLOTH_LLAMA_CPP_PATH, or None."""
    source = os.environ.get("UNSLOTH_LLAMA_CPP_PATH")
    return _part(Path(source), "llama-server") if source else None


def _part(source: Path, name: str) -> Path | None:
    """A file or folder of a built llama.cpp, or None."""
    places = source / name, source / "build" / "bin" / name
    return next((place for place in places if place.exists()), None)


def command_of_page(gguf: Path) -> list[str]:
    """Arguments of `llama-server` as the page on servers shows them, with the files of `gguf`."""
    lines = _PAGE.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    _, *arguments = shlex.split(next(line for line in lines if line.startswith("llama-server ")))
    for option, pattern in (("-m", "*.Q8_0.gguf"), ("--mmproj", "*mmproj.gguf")):
        (path,) = gguf.glob(pattern)
        arguments[arguments.index(option) + 1] = str(path)
    return arguments


class LlamaServer:
    """A process of `llama-server`, its address and how often it was started.

    Args:
        program: path of llama-server.
        arguments: as of `command_of_page`.
        port: port to listen on, instead of the one in the arguments.
    """

    def __init__(self, program: Path, arguments: Sequence[str], port: int) -> None:
        place = ["--host", "127.0.0.1", "--port", str(port)]
        self.command = [str(program), *arguments, *place]
        self.address = f"http://127.0.0.1:{port}"
        self.url = f"{self.address}/v1"
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Start the program; it answers with HTTP 503 until its model is loaded."""
        self.starts += 1
        nothing = subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, stdin=nothing, stdout=nothing, stderr=nothing)

    def wait(self) -> None:
        """Wait until the model is loaded."""
        end = time.monotonic() + 120
        while not self._is_ready():
            code = self.process.poll()
            assert code is None, f"llama-server ended with code {code}: {self.command}"
            assert time.monotonic() < end, "llama-server did not load its model in 120 s"
            time.sleep(0.1)

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """End the process at once and start another."""
        self.kill()
        self.start()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def served(
    program: Path, arguments: Sequence[str], port: int | None = None
) -> Generator[LlamaServer]:
    """Run `llama-server` as long as the context lasts, on a free port if none is given."""
    server = LlamaServer(program, arguments, port or free_port())
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reader_for_llama_cpp(folder: Path) -> Path:
    """Write the embedded model with a byte-level tokenizer (same ids) and two frames a patch."""
    shutil.copytree(TINY, folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(_byte_level(json.loads(path.read_text(encoding="utf-8")))))
    for name, section in (("config", "vision_config"), ("processor_config", "image_processor")):
        path = folder / f"{name}.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings[section]["temporal_patch_size"] = 2
        path.write_text(json.dumps(settings))
    weights = load_file(folder / "model.safetensors")
    name = "model.visual.patch_embed.proj.weight"
    # A picture is fed as two equal frames.
    weights[name] = torch.cat([weights[name] / 2] * 2, dim=2).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _byte_level(tokenizer: dict) -> dict:
    """Convert a tokenizer of characters to a byte-level one, as GPT-2's, with the same ids.

    Characters of two bytes become merges; longer ones are not encoded, but still decoded.
    """
    names = _byte_names()
    special = {token["content"] for token in tokenizer["added_tokens"]}
    old = tokenizer["model"]["vocab"]
    vocabulary, merges = {}, []
    for token, number in old.items():
        code = token.encode()
        name = token if token in special else "".join(names[byte] for byte in code)
        if token.startswith("<0x"):
            byte = int(token[3:5], 16)
            # A byte that is an ASCII character has that character's id.
            name = f"<byte {byte}>" if byte < 128 and chr(byte) in old else names[byte]
        elif len(token) == 1 and len(code) == 2:
            merges.append([names[code[0]], names[code[1]]])
        vocabulary[name] = number
    assert len(vocabulary) == len(old) and merges
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    return {
        **tokenizer,
        "model": model,
        "pre_tokenizer": {**split, "use_regex": True},
        "decoder": {**split, "use_regex": True},
    }


def _byte_names() -> list[str]:
    """GPT-2's printable character for each byte: the byte itself, or a character from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
