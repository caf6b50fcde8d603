import json
import stat
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ocrkit.data.patches import cut_patches, fitted
from ocrkit.data.read_rows import drawn_rows
from ocrkit.errors import ModelError
from ocrkit.models.gguf import llama_cpp_reader, read_gguf, write_gguf
from ocrkit.models.load import load_model
from ocrkit.models.write import export

# Output of a converter, quoted by Unsloth.
CONVERTER_OUTPUT = """Unsloth: GGUF conversion failed: RuntimeError: Unsloth: Failed to convert
--- converter stderr ---
INFO:hf-to-gguf:Loading model: merged
FileNotFoundError: File not found: tokenizer.model
During handling of the above exception, another exception occurred:
NotImplementedError: BPE pre-tokenizer was not recognized
"""


def _writing(*names: str) -> SimpleNamespace:
    """Stand-in for a model from which Unsloth makes files of these names."""

    def save_pretrained_gguf(folder, processor, quantization_method):
        output = Path(f"{folder}_gguf")
        output.mkdir()
        for name in names:
            (output / name).write_text(name)
        files = [str(output / name) for name in names]
        return {"gguf_files": files, "modelfile_location": None}

    return SimpleNamespace(save_pretrained_gguf=save_pretrained_gguf)


def test_converter_error_is_one_sentence(tmp_path):
    def fail(*args, **kwargs):
        raise RuntimeError(CONVERTER_OUTPUT)

    with pytest.raises(ModelError, match=r"\(NotImplementedError: BPE pre-tok.* merged_16bit, "):
        write_gguf(SimpleNamespace(save_pretrained_gguf=fail), None, tmp_path / "gguf")
    assert list(tmp_path.iterdir()) == []


def test_missing_vision_tower_is_an_error(tmp_path):
    """Unsloth only prints that a vision tower was not converted."""
    with pytest.raises(ModelError, match="cannot convert the vision tower"):
        write_gguf(_writing("m.Q8_0.gguf"), None, tmp_path / "out" / "gguf")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["mllama", "paddleocr_vl"])
def test_model_types_without_gguf_are_refused_before_the_merge(kind, tmp_path):
    config = SimpleNamespace(model_type=kind, quantization_config=None)
    model = SimpleNamespace(config=config, ocrkit_backend="unsloth")
    with pytest.raises(ModelError, match="format='gguf' cannot be written for"):
        export(model, None, tmp_path / "gguf", "gguf")


# Stand-in for llama-mtmd-cli: logs its arguments and the picture's size, and prints a text.
PROGRAM = """#!{python}
import json, sys
from pathlib import Path
from PIL import Image

arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
picture = Image.open(value("--image"))
with open(Path(__file__).with_name("calls.jsonl"), "a") as file:
    file.write(json.dumps([arguments, list(picture.size)]) + "\\n")
if "broken" in value("-p"):
    sys.exit("loading\\nerror: no such tensor\\n")
print("\\nread it\\n\\n")
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    path = folder / "llama-mtmd-cli"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("m.F16-mmproj.gguf", "m.Q8_0.gguf"):
        (folder / name).touch()
    return folder


def _calls(program: Path) -> list:
    lines = program.with_name("calls.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_llama_cpp_reader_looks_in_unsloths_folder_and_path(program, monkeypatch):
    assert llama_cpp_reader() == str(program)
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(program.parent / "none"))
    assert llama_cpp_reader() is None
    monkeypatch.setenv("PATH", str(program.parent))
    assert llama_cpp_reader() == str(program)


def test_llama_cpp_arguments(program, files, processor, config):
    picture = Image.new("RGB", (333, 40), "white")
    row = {"id": "a", "images": [picture], "prompt": [{"role": "user", "content": r"Read \n."}]}
    with_system = {**row, "prompt": [{"role": "system", "content": "You read."}, *row["prompt"]]}
    config.image_height = 32
    assert read_gguf(str(program), files, processor, [row, with_system], config) == ["read it"] * 2
    (arguments, size), (system_arguments, _) = _calls(program)
    assert size == [272, 32]  # 266 x 32, in tokens of 16 x 16
    value = dict(pairwise(arguments))
    assert value["-m"] == str(files / "m.Q8_0.gguf")
    assert value["--mmproj"] == str(files / "m.F16-mmproj.gguf")
    assert value["--image-min-tokens"] == value["--image-max-tokens"] == "34"
    assert value["-p"] == r"Read \n." and "--no-escape" in arguments and "-sys" not in arguments
    assert value["-n"] == str(config.max_new_tokens) and value["--temp"] == "0"
    assert system_arguments[system_arguments.index("-sys") + 1] == "You read."


def test_llama_cpp_errors_and_conversations(program, files, processor, config):
    row = drawn_rows(1)[0]
    broken = {**row, "prompt": [{"role": "user", "content": "broken"}]}
    with pytest.raises(ModelError, match=r"cannot read row '.*' with them \(error: no such tensor"):
        read_gguf(str(program), files, processor, [broken], config)
    turns = {**row, "prompt": [*row["prompt"], *row["completion"], *row["prompt"]]}
    with pytest.raises(ModelError, match="is a conversation of 3 messages, which llama-mtmd-cli"):
        read_gguf(str(program), files, processor, [turns], config)


def test_exported_gguf_is_compared_with_the_trained_model(
    program, config, tmp_path, capsys, monkeypatch
):
    model, processor = load_model(config)
    model.ocrkit_backend = "unsloth"
    texts = ["read it", "read it ", "read that"]
    # `ocrkit.models.write` is the function.
    monkeypatch.setattr(sys.modules["ocrkit.models.write"], "predict", lambda *args: texts)
    model.save_pretrained_gguf = _writing("m.Q8_0.gguf", "m-mmproj.gguf").save_pretrained_gguf
    folder = tmp_path / "gguf"
    with pytest.raises(ModelError, match="reads in 8 bits only 89% of the characters as"):
        export(model, processor, folder, "gguf", config=config, samples=3, min_equal=0.9)
    card = (folder / "README.md").read_text()
    assert "2 of 3 rows are read the same" in card and "library_name: gguf" in card
    assert "llama-mtmd-cli -m *.Q8_0.gguf" in card and "lays others on black ground" in card
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(tmp_path / "none"))
    capsys.readouterr()
    export(model, processor, tmp_path / "again", "gguf", config=config, samples=3)
    assert "was not compared with the trained model" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_fitted_picture_gives_the_same_patches(mode, processor):
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (45, 301, 3), generator=noise, dtype=torch.uint8)
    picture = Image.fromarray(pixels.numpy()).convert(mode)
    image_processor = processor.image_processor
    small = fitted(picture, image_processor)
    assert small.mode == mode and small.width % 16 == small.height % 16 == 0
    whole, again = (cut_patches([p], image_processor) for p in (picture, small))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
