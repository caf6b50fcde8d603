"""Reading by a real llama.cpp server: agreement with the model, refusals, stops and restarts."""

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ocrkit.__main__ import main
from ocrkit.data.load import load_data
from ocrkit.evaluation.evaluate import evaluate_server
from ocrkit.evaluation.evaluation import UNFINISHED, Evaluation
from tests.benchmarks.serving import alike, exported_reader
from tests.helpers.llama_cpp import SERVED_NAME, command_of_page, free_port, llama_server, served

pytest.importorskip("openai")
PROGRAM = llama_server()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAM,
        reason="UNSLOTH_LLAMA_CPP_PATH holds no built llama-server: tests/README.md says how to "
        "build one",
    ),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Settings of reading the embedded reader; its GGUF lies beside its folder."""
    folder = tmp_path_factory.mktemp("served")
    return exported_reader(folder, Path(os.environ["UNSLOTH_LLAMA_CPP_PATH"]))


@pytest.fixture(scope="module")
def arguments(config):
    """Arguments of llama-server, as the page shows them."""
    return command_of_page(Path(config.output_dir).parent / "gguf")


@pytest.fixture
def own(config, tmp_path):
    """The settings with a folder of its own for evaluations, and forty rows."""
    return replace(config, output_dir=str(tmp_path / "run"), max_eval_samples=40)


@pytest.fixture
def rows(own):
    return load_data(own)["test"]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def without(arguments: Sequence[str], option: str) -> list[str]:
    """Arguments without an option and its value."""
    at = list(arguments).index(option)
    return [*arguments[:at], *arguments[at + 2 :]]


def test_the_server_reads_as_many_rows_alike_as_llama_cpps_own_program(config, arguments):
    with served(PROGRAM, arguments) as server:
        figures = alike(config, server.url)
    assert figures["server"]["failed"] == 0
    assert figures["server"]["same"] >= figures["program"]["same"]
    folder = Path(config.output_dir) / "eval"
    model, server = (
        {record["id"]: record for record in Evaluation.load(folder / name).records}
        for name in ("model", "server")
    )
    same = [key for key in model if model[key]["prediction"] == server[key]["prediction"]]
    # Confidences of the same tokens, but for what 8 bits round.
    apart = [abs(model[key]["confidence"] - server[key]["confidence"]) for key in same]
    assert sum(apart) / len(apart) < 0.02


def test_model_without_its_vision_tower_is_one_sentence(own, rows, arguments):
    with (
        served(PROGRAM, without(arguments, "--mmproj")) as server,
        pytest.raises(RuntimeError, match=r"takes no pictures .*--mmproj file") as raised,
    ):
        evaluate_server(server.url, SERVED_NAME, rows, own)
    assert "\n" not in str(raised.value)


def test_key_that_is_refused_is_one_sentence(own, rows, arguments, monkeypatch):
    with served(PROGRAM, [*arguments, "--api-key", "right"]) as server:
        with pytest.raises(RuntimeError, match="refuses requests without a key"):
            evaluate_server(server.url, SERVED_NAME, rows, own)
        monkeypatch.setenv("OPENAI_API_KEY", "wrong-one")
        with pytest.raises(RuntimeError, match="refuses the key in OPENAI_API_KEY") as raised:
            evaluate_server(server.url, SERVED_NAME, rows, own)
        assert "wrong-one" not in str(raised.value)
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        assert evaluate_server(server.url, SERVED_NAME, rows, own).failed == 0


@pytest.fixture
def pages(tmp_path):
    """Pictures of 10 and of 1200 tokens, a strip of which llama.cpp makes one row, and a pixel."""
    folder = tmp_path / "pages"
    folder.mkdir()
    for name, size in {"a": (160, 16), "b": (640, 480), "c": (30000, 16), "d": (1, 1)}.items():
        Image.new("L", size, 255).save(folder / f"{name}.png")
    return folder


def test_pictures_that_the_server_refuses_fail_alone(arguments, pages, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    with served(PROGRAM, arguments) as server:
        command = ["predict", str(pages), "--server", server.url, "--model", SERVED_NAME]
        assert main([*command, "--out", str(out)]) == 1
        assert server.starts == 1 and server.process.poll() is None
    captured = capsys.readouterr()
    assert "2 read, 2 failed" in captured.out and "Traceback" not in captured.err
    records = [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]
    errors = {Path(record["id"]).stem: record["error"] for record in records}
    assert errors["a"] is None and errors["d"] is None
    for name in ("b", "c"):
        assert "exceeds the available context size" in errors[name]


def test_answers_cut_by_the_context_are_counted(own, rows, arguments, capsys):
    # 256 tokens, of which a picture of 232 leaves a few to the answer.
    small = [*without(without(arguments, "-c"), "--parallel"), "-c", "256", "--parallel", "1"]
    row = {**rows[0], "images": [rows[0]["images"][0].resize((928, 64))]}
    with served(PROGRAM, small) as server:
        evaluation = evaluate_server(
            server.url, SERVED_NAME, [row], replace(own, image_height=None)
        )
    assert evaluation.failed == 0
    assert evaluation.records[0]["finish_reason"] == "length"
    assert "1 answers were cut (max_new_tokens=" in capsys.readouterr().err


def test_answers_cut_by_length_are_counted(own, rows, arguments, capsys):
    with served(PROGRAM, arguments) as server:
        evaluation = evaluate_server(server.url, SERVED_NAME, rows, replace(own, max_new_tokens=4))
    cut = [record for record in evaluation.records if record["finish_reason"] == "length"]
    assert len(cut) > 30 and all(len(record["prediction"]) <= 8 for record in cut)
    assert f"{len(cut)} answers were cut" in capsys.readouterr().err


def when_read(own, count, act):
    """Call `act` in a thread once so many rows are read."""
    path = Path(own.output_dir) / "eval" / SERVED_NAME / UNFINISHED

    def watch():
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if path.is_file() and len(path.read_text(encoding="utf-8").splitlines()) > count:
                act()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_server_that_is_killed_ends_the_run_and_the_next_one_goes_on(
    own, rows, arguments, monkeypatch
):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.1)
    port = free_port()
    with served(PROGRAM, arguments, port) as server:
        when_read(own, 5, server.kill)
        with pytest.raises(RuntimeError, match=r"answers no more .* goes on once it does"):
            evaluate_server(server.url, SERVED_NAME, rows, own, requests=2)
    path = Path(own.output_dir) / "eval" / SERVED_NAME / UNFINISHED
    kept = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert sum(record["error"] is None for record in kept) >= 5
    with served(PROGRAM, arguments, port) as server:
        evaluation = evaluate_server(server.url, SERVED_NAME, rows, own, requests=2)
    assert evaluation.failed == 0


def test_server_that_starts_again_meanwhile_fails_no_row(own, rows, arguments):
    port = free_port()
    with served(PROGRAM, arguments, port) as server:
        thread = when_read(own, 5, server.restart)
        evaluation = evaluate_server(server.url, SERVED_NAME, rows, own, requests=2)
        thread.join()
        assert server.starts == 2
    assert evaluation.failed == 0
