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
from ocrkit.data.rows import drawn_rows
from ocrkit.errors import ModelError
from ocrkit.models.gguf import llama_cpp_reader, read_gguf, write_gguf
from ocrkit.models.load import load_model
from ocrkit.models.write import export

# What a converter says, quoted by Unsloth.
SAID = """Unsloth: GGUF conversion failed: RuntimeError: Unsloth: Failed to convert
--- converter stderr ---
INFO:hf-to-gguf:Loading model: merged
FileNotFoundError: File not found: tokenizer.model
During handling of the above exception, another exception occurred:
NotImplementedError: BPE pre-tokenizer was not recognized
"""


def _writing(*names: str) -> SimpleNamespace:
    """A model of which Unsloth makes files of these names."""

    def save_pretrained_gguf(folder, processor, quantization_method):
        made = Path(f"{folder}_gguf")
        made.mkdir()
        for name in names:
            (made / name).write_text(name)
        files = [str(made / name) for name in names]
        return {"gguf_files": files, "modelfile_location": None}

    return SimpleNamespace(save_pretrained_gguf=save_pretrained_gguf)


def test_a_converters_error_is_one_sentence(tmp_path):
    def fail(*args, **kwargs):
        raise RuntimeError(SAID)

    with pytest.raises(ModelError, match=r"\(NotImplementedError: BPE pre-tok.* merged_16bit, "):
        write_gguf(SimpleNamespace(save_pretrained_gguf=fail), None, tmp_path / "gguf")
    assert list(tmp_path.iterdir()) == []


def test_files_that_would_read_no_picture_are_not_given_out(tmp_path):
    """Unsloth only prints that a vision tower was not converted."""
    with pytest.raises(ModelError, match="cannot convert the vision tower"):
        write_gguf(_writing("m.Q8_0.gguf"), None, tmp_path / "out" / "gguf")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["mllama", "paddleocr_vl"])
def test_models_without_a_gguf_are_refused_before_the_merge(kind, tmp_path):
    config = SimpleNamespace(model_type=kind, quantization_config=None)
    model = SimpleNamespace(config=config, ocrkit_backend="unsloth")
    with pytest.raises(ModelError, match="format='gguf' cannot be written for"):
        export(model, None, tmp_path / "gguf", "gguf")


# Leaves what it was given beside itself, and reads the name of the first picture's folder.
PROGRAM = """#!{python}
import json, sys
from pathlib import Path
from PIL import Image

given = sys.argv[1:]
value = lambda name: given[given.index(name) + 1]
picture = Image.open(value("--image"))
with open(Path(__file__).with_name("given.jsonl"), "a") as file:
    file.write(json.dumps([given, list(picture.size)]) + "\\n")
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


def _given(program: Path) -> list:
    lines = program.with_name("given.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_llama_cpp_is_found_where_unsloth_puts_it(program, monkeypatch):
    assert llama_cpp_reader() == str(program)
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(program.parent / "none"))
    assert llama_cpp_reader() is None
    monkeypatch.setenv("PATH", str(program.parent))
    assert llama_cpp_reader() == str(program)


def test_llama_cpp_is_given_pictures_as_the_model_sees_them(program, files, processor, config):
    picture = Image.new("RGB", (333, 40), "white")
    row = {"id": "a", "images": [picture], "prompt": [{"role": "user", "content": r"Read \n."}]}
    asked = {**row, "prompt": [{"role": "system", "content": "You read."}, *row["prompt"]]}
    config.image_height = 32
    assert read_gguf(str(program), files, processor, [row, asked], config) == ["read it"] * 2
    (given, size), (with_system, _) = _given(program)
    assert size == [272, 32]  # 266 x 32, in tokens of 16 x 16
    value = dict(pairwise(given))
    assert value["-m"] == str(files / "m.Q8_0.gguf")
    assert value["--mmproj"] == str(files / "m.F16-mmproj.gguf")
    assert value["--image-min-tokens"] == value["--image-max-tokens"] == "34"
    assert value["-p"] == r"Read \n." and "--no-escape" in given and "-sys" not in given
    assert value["-n"] == str(config.max_new_tokens) and value["--temp"] == "0"
    assert with_system[with_system.index("-sys") + 1] == "You read."


def test_what_llama_cpp_cannot_read_or_be_asked(program, files, processor, config):
    row = drawn_rows(1)[0]
    broken = {**row, "prompt": [{"role": "user", "content": "broken"}]}
    with pytest.raises(ModelError, match=r"cannot read row '.*' with them \(error: no such tensor"):
        read_gguf(str(program), files, processor, [broken], config)
    turns = {**row, "prompt": [*row["prompt"], *row["completion"], *row["prompt"]]}
    with pytest.raises(ModelError, match="is a conversation of 3 messages, which llama-mtmd-cli"):
        read_gguf(str(program), files, processor, [turns], config)


def test_an_exported_gguf_is_held_against_the_trained_model(
    program, config, tmp_path, capsys, monkeypatch
):
    model, processor = load_model(config)
    model.ocrkit_backend = "unsloth"
    texts = ["read it", "read it ", "read that"]
    # `ocrkit.models.write` is the function.
    monkeypatch.setattr(sys.modules["ocrkit.models.write"], "predict", lambda *args: texts)
    model.save_pretrained_gguf = _writing("m.Q8_0.gguf", "m-mmproj.gguf").save_pretrained_gguf
    folder = tmp_path / "gguf"
    with pytest.raises(ModelError, match="reads only 2 of 3 rows as the trained one does"):
        export(model, processor, folder, "gguf", config=config, samples=3, min_equal=0.9)
    card = (folder / "README.md").read_text()
    assert "2 of 3 rows are read the same" in card and "library_name: gguf" in card
    assert "llama-mtmd-cli -m *.Q8_0.gguf" in card and "lays others on black ground" in card
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(tmp_path / "none"))
    capsys.readouterr()
    export(model, processor, tmp_path / "again", "gguf", config=config, samples=3)
    assert "was not compared with the trained model" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_fitted_picture_is_cut_into_the_same_patches(mode, processor):
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (45, 301, 3), generator=noise, dtype=torch.uint8)
    picture = Image.fromarray(pixels.numpy()).convert(mode)
    part = processor.image_processor
    small = fitted(picture, part)
    assert small.mode == mode and small.width % 16 == small.height % 16 == 0
    whole, again = cut_patches([picture], part), cut_patches([small], part)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
