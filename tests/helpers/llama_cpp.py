"""llama.cpp for tests: a patched copy and a model that it can convert and read with.

llama.cpp cannot convert the embedded model: it knows tokenizers by name, and Qwen's vision towers
with two frames a patch.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ocrkit.models.base import TINY

_NEEDED = (
    *("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion", "gguf-py"),
    *("llama-quantize", "llama-mtmd-cli"),
)
_UNKNOWN = 'raise NotImplementedError("BPE pre-tokenizer was not recognized'


def patched_llama_cpp(source: Path, folder: Path) -> Path:
    """Copy a built llama.cpp and patch its converter to treat unknown tokenizers as GPT-2's."""
    for name in _NEEDED:
        path = next(p for p in (source / name, source / "build" / "bin" / name) if p.exists())
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, folder / name)
    converter = folder / "conversion" / "base.py"
    text = converter.read_text(encoding="utf-8")
    assert _UNKNOWN in text
    converter.write_text(text.replace(_UNKNOWN, f'return "gpt-2"\n{" " * 12}{_UNKNOWN}'))
    return folder


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
