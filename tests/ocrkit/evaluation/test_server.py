"""Reading by a server: order, failures, limits, resuming, speed, secrets and what is sent."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ocrkit import TrainConfig, compare
from ocrkit.__main__ import main
from ocrkit.data.patches import fitted
from ocrkit.errors import ConfigError
from ocrkit.evaluation.evaluate import evaluate_server
from ocrkit.evaluation.evaluation import Evaluation, score
from ocrkit.evaluation.server import ServerReader, check_url, evaluation_name
from tests.helpers.chat_server import check_answer, completion, refusal, serving

pytest.importorskip("openai")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def quick_retries(monkeypatch):
    """No pauses before a request is repeated, but for those that the server asks for."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def config(tmp_path):
    return TrainConfig(model_name_or_path="m", dataset="d", output_dir=str(tmp_path / "run"))


def rows(count):
    """Rows of which picture n is n + 1 pixels wide and says "line n"."""
    return [
        {
            "id": f"r{n}",
            "prompt": [{"role": "user", "content": "Read."}],
            "completion": [{"role": "assistant", "content": f"line {n}"}],
            "images": [Image.new("L", (n + 1, 4), 255)],
            "group": f"g{n // 2}",
        }
        for n in range(count)
    ]


def line(picture, body):
    return f"line {picture.width - 1}"


def test_rows_answered_out_of_order_are_each_asked_once_and_scored_in_order(config, tmp_path):
    waits = random.Random(1)

    def respond(picture, body):
        time.sleep(waits.random() / 20)
        return line(picture, body)

    with serving(respond) as server:
        evaluation = evaluate_server(server.url, "org/some model:7b", rows(40), config)
    assert evaluation.metrics["cer"]["value"] == 0
    assert [record["id"] for record in evaluation.records] == [f"r{n}" for n in range(40)]
    assert sorted(picture.width for picture in server.rows) == list(range(1, 41))
    assert evaluation.records[3]["confidence"] == pytest.approx(0.904837)
    assert evaluation.name == "some-model-7b" and evaluation.weights is None
    saved = Evaluation.load(tmp_path / "run/eval/some-model-7b")
    assert saved.metrics == evaluation.metrics


def test_eight_at_once_are_at_least_five_times_faster(config):
    def respond(picture, body):
        time.sleep(0.4)
        return line(picture, body)

    def ratio(server):
        seconds = {}
        for requests in (1, 8):
            reader = ServerReader(server.url, "m", config, requests)
            started = time.perf_counter()
            assert len(list(reader.read_stream(rows(16)))) == 16
            seconds[requests] = time.perf_counter() - started
            assert server.most_busy == requests
            server.most_busy = 0
        return seconds[1] / seconds[8]

    with serving(respond) as server:
        # Other jobs on the machine slow down both, but the second more.
        assert any(ratio(server) >= 5 for _ in range(3))


def test_server_rate_limit_is_waited_for(config, quick_retries):
    times = []

    def respond(picture, body):
        now = time.monotonic()
        times[:] = [moment for moment in times if now - moment < 0.3]
        if len(times) >= 5:
            return refusal(429, "slow down", **{"Retry-After": "0.3"})
        times.append(now)
        return line(picture, body)

    with serving(respond) as server:
        evaluation = evaluate_server(server.url, "m", rows(20), config)
    assert evaluation.failed == 0 and evaluation.metrics["cer"]["value"] == 0


def test_server_that_fails_for_a_while_is_asked_again(config, quick_retries):
    seen = set()

    def respond(picture, body):
        if picture.width not in seen:
            seen.add(picture.width)
            return refusal(503, "loading")
        return line(picture, body)

    with serving(respond) as server:
        assert evaluate_server(server.url, "m", rows(10), config).failed == 0
    assert len(server.rows) == 20


def test_failures_are_counted_with_a_line_each_and_tried_again_by_the_next_run(
    config, quick_retries, capsys
):
    answers = {
        1: refusal(400, "cannot identify image file"),
        2: b"{no json",
        3: {"object": "error"},
        4: {"choices": []},
        5: completion("too long", "length"),
        6: {**completion(""), "choices": [{"index": 0, "message": {"content": None}}]},
        7: b"[1]",
        8: completion("x", logprob=None),
        9: {"choices": [{"message": {"role": "assistant", "content": None, "refusal": "I won't"}}]},
    }

    def respond(picture, body):
        answer = answers.get(picture.width, line(picture, body))
        return dict(answer) if isinstance(answer, dict) else answer

    with serving(respond) as server:
        evaluation = evaluate_server(server.url, "m", rows(10), config, price=(1000, 2000))
        errors = [record["error"] for record in evaluation.records]
        assert "HTTP 400: cannot identify image file" in errors[0]
        assert errors[1].startswith("the answer is no JSON")
        assert errors[2].startswith("no chat completion")
        assert errors[3].startswith("no chat completion")
        assert evaluation.records[4]["finish_reason"] == "length"
        assert evaluation.records[4]["prediction"] == "too long" and errors[4] is None
        assert errors[5] is None and evaluation.records[5]["prediction"] == ""
        assert errors[6].startswith("no chat completion")
        assert errors[7] is None and evaluation.records[7]["confidence"] is None
        assert errors[8] == "the model refused: I won't"
        captured = capsys.readouterr().err
        for number in (0, 1, 2, 3, 6, 8):
            assert (
                sum(text.startswith(f"r{number} failed: ") for text in captured.splitlines()) == 1
            )
        assert "4 read, 6 failed; 80 tokens read and 15 written, which cost 0.1100" in captured
        assert "1 answers were cut (max_new_tokens=" in captured
        answers.clear()
        asked = len(server.rows)
        again = evaluate_server(server.url, "m", rows(10), config)
    assert again.failed == 0 and len(server.rows) - asked == 6


def test_server_that_hangs_fails_rows_after_the_timeout(config, quick_retries):
    def respond(picture, body):
        if picture.width == 2:
            time.sleep(1.5)
        return line(picture, body)

    with serving(respond) as server:
        reader = ServerReader(server.url, "m", config, timeout=0.2, retries=1)
        answers = {answer["id"]: answer for answer in reader.read_stream(rows(4))}
    assert answers["r1"]["error"] == "no answer within 0.2 s"
    assert [answers[f"r{n}"]["error"] for n in (0, 2, 3)] == [None] * 3


def test_server_that_goes_away_ends_the_run_and_loses_nothing(config, quick_retries, tmp_path):
    def respond(picture, body):
        if len(server.rows) > 20:
            time.sleep(60)
        return line(picture, body)

    with serving(respond) as server:
        reader = ServerReader(server.url, "m", config, 2, timeout=0.5, retries=1)
        answers = []
        with pytest.raises(RuntimeError, match=r"answers no more .* goes on once it does"):
            answers.extend(reader.read_stream(rows(60)))
    # A busy machine may be slow to answer, and a row is then asked for once more.
    assert {picture.width for picture in server.rows} >= set(range(1, 21))


_KILLED = """
import sys
from ocrkit import TrainConfig
from ocrkit.evaluation.evaluate import evaluate_server
from tests.ocrkit.evaluation.test_server import rows

config = TrainConfig(model_name_or_path="m", dataset="d", output_dir=sys.argv[2])
evaluate_server(sys.argv[1], "m", rows(60), config, requests=4)
"""


def test_killed_evaluation_goes_on_and_asks_no_answered_row_again(config, tmp_path):
    def respond(picture, body):
        time.sleep(0.05)
        return line(picture, body)

    unfinished = Path(config.output_dir) / "eval/m/unfinished.jsonl"
    with serving(respond) as server:
        command = [sys.executable, "-c", _KILLED, server.url, config.output_dir]
        process = subprocess.Popen(command, cwd=ROOT)
        end = time.monotonic() + 60
        while time.monotonic() < end and len(server.rows) < 25:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        saved = {json.loads(text)["id"] for text in unfinished.read_text().splitlines()[1:]}
        assert len(saved) >= 25 - 4 - 1
        asked = len(server.rows)
        evaluation = evaluate_server(server.url, "m", rows(60), config)
        again = [f"r{picture.width - 1}" for picture in server.rows[asked:]]
    assert evaluation.metrics["cer"]["value"] == 0
    assert sorted(again) == sorted({f"r{n}" for n in range(60)} - saved)


def test_other_model_server_or_setting_is_read_anew(config):
    with serving(line) as server, serving(line) as other:
        for url, model, own in (
            (server.url, "m", config),
            (server.url, "m2", config),
            (server.url, "m2", replace(config, max_new_tokens=9)),
            (server.url, "m2", replace(config, max_pixels=9)),
            (other.url, "m2", config),
        ):
            asked = len(server.rows) + len(other.rows)
            for _ in range(2):
                evaluate_server(url, model, rows(3), own, name="x")
            assert len(server.rows) + len(other.rows) == asked + 3


# --- servers that cannot be used


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refusal(401, "Incorrect API key provided: sk-abc"), "refuses requests without a key"),
        (
            refusal(404, "The model `m` does not exist."),
            r"no chat endpoint or no model 'm' .*/models",
        ),
        (refusal(404, "404 page not found"), "give the address up to /v1"),
        (b"<html>hello</html>", "does not speak OpenAI's protocol"),
        (b"", "does not speak OpenAI's protocol"),
        (b"[]", "does not speak OpenAI's protocol"),
        ({"models": []}, "does not speak OpenAI's protocol"),
        (refusal(418, "teapot"), "refuses a question to 'm': HTTP 418: teapot"),
    ],
)
def test_server_that_cannot_be_used_is_one_sentence(answer, message, config, monkeypatch):
    def check(picture):
        return (answer[0], dict(answer[1])) if isinstance(answer, tuple) else answer

    monkeypatch.setattr("tests.helpers.chat_server.check_answer", check)
    with serving(line) as server, pytest.raises(RuntimeError, match=message) as raised:
        evaluate_server(server.url, "m", rows(2), config)
    assert "\n" not in str(raised.value) and not server.rows


def test_unreachable_server_is_one_sentence(config):
    with serving(line) as server:
        url = server.url
    started = time.perf_counter()
    with pytest.raises(RuntimeError, match=f"{url} does not answer .*: start the server"):
        evaluate_server(url, "m", rows(2), config)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("blind", ["same tokens", "refused", "error 500"])
def test_model_without_vision_is_refused(blind, config, monkeypatch, quick_retries):
    def check(picture):
        if blind == "same tokens" or picture is None:
            return check_answer(None)
        status = 400 if blind == "refused" else 500
        return refusal(status, "image input is not supported")

    monkeypatch.setattr("tests.helpers.chat_server.check_answer", check)
    with serving(line) as server:
        with pytest.raises(RuntimeError, match=r"takes no pictures|does not see pictures"):
            evaluate_server(server.url, "m", rows(2), config)
        assert not server.rows


def test_settings_that_a_server_refuses_are_left_out(config):
    def respond(picture, body):
        for name in ("max_tokens", "temperature", "logprobs"):
            if name in body:
                return refusal(400, f"Unsupported parameter: '{name}'")
        return completion(line(picture, body), logprob=None)

    with serving(respond) as server:
        evaluation = evaluate_server(server.url, "m", rows(12), config, requests=4)
    assert evaluation.failed == 0
    assert server.bodies[-1]["max_completion_tokens"] == config.max_new_tokens
    assert "temperature" not in server.bodies[-1]


# --- secrets


def test_key_is_sent_and_neither_written_nor_shown(config, monkeypatch, tmp_path, capsys):
    key = "sk-very-secret-1234"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def respond(picture, body):
        if picture.width == 1:
            return refusal(400, f"bad request with {key}")
        return line(picture, body)

    with serving(respond) as server:
        evaluation = evaluate_server(server.url, "m", rows(3), config)
        assert server.keys == {f"Bearer {key}"}
        monkeypatch.setattr(
            "tests.helpers.chat_server.check_answer",
            lambda picture: refusal(401, f"Incorrect API key provided: {key}"),
        )
        with pytest.raises(RuntimeError, match="refuses the key in OPENAI_API_KEY, HTTP 401") as e:
            evaluate_server(server.url, "m", rows(4), config)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    shown = "".join(capsys.readouterr()) + str(e.value) + str(evaluation.records)
    assert key not in shown and key.encode() not in written


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://a/v1", "http://", "http://a:b/v1", "http://[/v1", "x"]
)
def test_invalid_server_addresses_are_refused(url):
    with pytest.raises(ConfigError, match="is no address: give one such as"):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["http://me:secret@host/v1", "http://h/v1?key=secret", "http://h#secret"]
)
def test_addresses_with_a_secret_are_refused_without_showing_it(url):
    with pytest.raises(ConfigError, match="OPENAI_API_KEY alone") as raised:
        check_url(url)
    assert "secret" not in str(raised.value)


# --- what is sent


def test_pictures_are_sent_as_the_run_s_processor_makes_them(config, processor):
    picture = Image.radial_gradient("L").resize((301, 77))
    row = rows(1)[0] | {"images": [picture]}
    with serving(lambda *_: "") as server:
        for settings, options in (
            ({}, {}),
            ({"image_height": 32}, {}),
            ({"max_pixels": 6000}, {}),
            ({"min_pixels": 60000}, {}),
            ({"image_height": 32}, {"processor": "tiny"}),
        ):
            reader = ServerReader(server.url, "m", replace(config, **settings), **options)
            list(reader.read_stream([row]))
    same, lower, smaller, larger, whole = server.rows
    assert same.size == (301, 77) and same.convert("L").tobytes() == picture.tobytes()
    assert lower.size == (125, 32)
    assert smaller.width * smaller.height <= 6000 and smaller.width > 145
    assert larger.width * larger.height >= 60000 and larger.width < 500
    expected = fitted(lower.convert("RGB"), processor.image_processor)
    assert whole.size == expected.size and whole.tobytes() == expected.tobytes()


def test_conversations_are_sent_with_pictures_in_their_places(config):
    row = {
        "id": "a",
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Left \ufffc right \ufffc?"},
        ],
        "images": [Image.new("L", (9, 9)), Image.new("L", (8, 8))],
    }
    with serving(lambda *_: "x") as server:
        list(ServerReader(server.url, "m", config).read_stream([row]))
    system, user = server.bodies[0]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]


def test_evaluation_names_are_folder_names():
    names = {"m": "m", "org/qwen2.5-vl:7b": "qwen2.5-vl-7b", "/models/a b/": "a-b", "..": "server"}
    assert {name: evaluation_name(name) for name in names} == names


# --- commands


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for n in range(6):
        Image.new("L", (n + 1, 4), 255).save(folder / f"{n}.png")
    (folder / "bad.png").write_bytes(b"none")
    return folder


def test_predict_by_a_server(scans, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    with serving(line) as server:
        command = ["predict", str(scans), "--server", server.url, "--model", "m", "--out", str(out)]
        assert main(command) == 1
        assert "6 read, 1 failed, 0 were there already" in capsys.readouterr().out
        (scans / "bad.png").unlink()
        assert main(command) == 0
        assert "0 read, 0 failed, 6 were there already" in capsys.readouterr().out
        assert len(server.rows) == 6
        assert main([*command[:2], *command[2:5], "other", *command[6:]]) == 1
        assert "by another model" in capsys.readouterr().err
        assert main(command[:6]) == 0
        assert f"{scans / '3.png'}\tline 3" in capsys.readouterr().out
    records = [json.loads(text) for text in out.read_text().splitlines()]
    readings = [(Path(record["id"]).stem, record["prediction"]) for record in records]
    # In the pictures' order; the line of the one that is gone is kept.
    assert readings == [*((str(n), f"line {n}") for n in range(6)), ("bad", "")]


def test_evaluate_by_a_server_stands_in_compare(thermal, tmp_path, capsys):
    arguments = ["evaluate", "--dataset", str(thermal), "--output_dir", str(tmp_path)]
    with serving(lambda *_: "TOTAL") as server:
        code = main([*arguments, "--server", server.url, "--model", "org/m", "--split", "test"])
    assert code == 0 and "10 samples, 0 failed" in capsys.readouterr().out
    served = Evaluation.load(tmp_path / "eval/m")
    # The same rows by another system, all right: a difference with its interval.
    records = [record | {"prediction": record["reference"]} for record in served.records]
    comparison = compare(served, score(records, "tuned", served.profile["name"]))
    low, high = comparison.evaluations[0].metrics["cer"]["low"], served.metrics["cer"]["value"]
    assert 0 < low <= high and "tuned" in comparison.table(["cer"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server", "here", "--model", "m"], "is no address"),
        (["--server", "http://h/v1"], "--server needs --model NAME"),
        (["--price", "1,2"], "--price is for a server"),
        (["--server", "http://h/v1", "--model", "m", "--price", "1"], "is no pair of prices"),
        (["--server", "http://h/v1", "--model", "m", "--requests", "0"], "must be at least 1"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_options_of_a_server_are_checked_first(options, message, command, scans, capsys):
    try:
        code = main([command, *([str(scans)] if command == "predict" else []), *options])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err


def test_missing_package_is_one_sentence(scans, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openai", None)
    assert main(["predict", str(scans), "--server", "http://h/v1", "--model", "m"]) == 1
    error = capsys.readouterr().err
    assert "openai" in error and error.count("\n") == 1
