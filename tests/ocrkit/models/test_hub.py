import importlib
import json
import re
import sys
from unittest.mock import create_autospec

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

import ocrkit
from ocrkit.__main__ import main
from ocrkit.config import TrainConfig
from ocrkit.errors import HubError, ModelError
from ocrkit.models.hub import card, push, reserve
from ocrkit.models.load import load_model
from ocrkit.models.write import export


@pytest.fixture
def hub(monkeypatch):
    """Stand-in for HfApi, with its signatures, of an empty Hub."""
    # Imported first: transformers uses classes of huggingface_hub as types at import.
    importlib.import_module("transformers.utils.hub")
    api = create_autospec(HfApi, instance=True)
    api.repo_exists.return_value = False
    api.endpoint = "https://huggingface.co"
    monkeypatch.setattr("huggingface_hub.HfApi", create_autospec(HfApi, return_value=api))
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    return api


def _refusal(status: int) -> HfHubHTTPError:
    """huggingface_hub's error for a status of the Hub."""
    request = httpx.Request("POST", "https://huggingface.co/api/repos/create")
    return HfHubHTTPError(f"{status}\nmore", response=httpx.Response(status, request=request))


def test_push_of_a_merged_model_with_its_card(config, tmp_path, hub, capsys):
    model, processor = load_model(config)
    folder = export(
        model,
        processor,
        tmp_path / "merged",
        format="merged_16bit",
        samples=0,
        push_to_hub="someone/receipts",
        hub_private_repo=True,
    )
    hub.create_repo.assert_called_once_with("someone/receipts", private=True)
    call = hub.upload_folder.call_args.kwargs
    assert (call["repo_id"], call["folder_path"]) == ("someone/receipts", folder)
    assert "# receipts" in (folder / "README.md").read_text()
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert "Pushed to https://huggingface.co/someone/receipts" in capsys.readouterr().out


def test_adapter_on_a_local_base_is_not_pushed(config, tmp_path, hub):
    model, processor = load_model(config)
    with pytest.raises(ModelError, match="push format=merged_16bit"):
        export(model, processor, tmp_path / "adapter", push_to_hub="someone/receipts")
    hub.create_repo.assert_not_called()
    assert not (tmp_path / "adapter").exists()


def test_hub_refusal_comes_before_the_merge(config, tmp_path, hub):
    model, processor = load_model(config)
    hub.create_repo.side_effect = _refusal(403)
    with pytest.raises(HubError, match="cannot write for someone"):
        export(model, processor, tmp_path / "m", "merged_16bit", push_to_hub="someone/receipts")
    assert not (tmp_path / "m").exists()


def test_merge_that_reads_differently_is_not_pushed(config, tmp_path, hub, monkeypatch):
    model, processor = load_model(config)
    wrong = ["another reading"] * 2
    monkeypatch.setattr(sys.modules["ocrkit.models.write"], "_read_again", lambda *args: wrong)
    with pytest.raises(ModelError, match=r"reads in float32 only \d+% of the characters"):
        export(
            model,
            processor,
            tmp_path / "m",
            "merged_16bit",
            samples=2,
            push_to_hub="someone/receipts",
        )
    hub.upload_folder.assert_not_called()


def test_reserve_takes_an_empty_repository_only(hub):
    hub.repo_exists.return_value = True
    hub.list_repo_files.return_value = [".gitattributes", "README.md"]
    assert reserve("someone/receipts") is hub
    hub.create_repo.assert_not_called()
    hub.list_repo_files.return_value = [".gitattributes", "model.safetensors", "config.json"]
    with pytest.raises(HubError, match=r"exists and holds 2 files \(config\.json\)"):
        reserve("someone/receipts")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_refusal(401), "does not take this token"),
        (_refusal(403), "cannot write for someone"),
        (httpx.ConnectError("no route to host"), "cannot be reached; check the network"),
        (_refusal(500), "500 more"),
    ],
)
def test_hub_errors_are_one_sentence(error, message, hub, tmp_path):
    hub.create_repo.side_effect = error
    with pytest.raises(HubError, match=message) as raised:
        reserve("someone/receipts")
    assert "\n" not in str(raised.value)
    hub.upload_folder.side_effect = error
    with pytest.raises(HubError, match=f"is whole, but could not be pushed.*{message}"):
        push(hub, "someone/receipts", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("receipts", "give user/name"), ("some one/receipts", "no valid name of a repository")],
)
def test_invalid_repository_names(name, message, hub):
    with pytest.raises(HubError, match=message) as raised:
        reserve(name)
    assert "\n" not in str(raised.value)
    hub.create_repo.assert_not_called()


def test_reserve_without_a_token(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match="needs a token that may write: set HF_TOKEN"):
        reserve("someone/receipts")


def test_reserve_without_a_network(monkeypatch):
    # Tests run offline: huggingface_hub itself refuses to connect.
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    with pytest.raises(HubError, match="cannot be reached; check the network"):
        reserve("someone/receipts")


@pytest.mark.parametrize(("flags", "private"), [([], None), (["--hub_private_repo"], True)])
def test_export_command_passes_the_hub_settings(flags, private, tmp_path, monkeypatch):
    options = {}

    def export(model, processor, output_dir, **settings):
        options.update(settings)
        return output_dir

    monkeypatch.setattr(ocrkit, "load_model", lambda config: (None, None))
    monkeypatch.setattr(ocrkit, "export", export)
    pushed = ["--push_to_hub", "someone/receipts", *flags]
    assert main(["export", "--out", str(tmp_path / "adapter"), *pushed]) == 0
    assert (options["push_to_hub"], options["hub_private_repo"]) == ("someone/receipts", private)


def test_card_names_the_languages_that_the_hub_knows(tmp_path):
    languages = {"und": 5, "ko-KR": 3, "kor": 1, "sr-Latn": 1, "klingon": 1}
    (tmp_path / "dataset.json").write_text(json.dumps({"languages": languages}))
    made_by = {"id": None, "weights": "w"}
    text = card("x", "adapter", True, "tiny", None, TrainConfig(dataset=str(tmp_path)), "", made_by)
    assert "language:\n- ko\n- sr\n" in text.split("---\n")[1]


def test_card_escapes_markdown_in_names(tmp_path):
    hostile = "a|b [x](javascript:alert(1)) <script>\n# `c` \u202e\x1b"
    data, run = tmp_path / "data", tmp_path / "run"
    folder = run / "eval" / "x`y|z"
    folder.mkdir(parents=True)
    other = run / "eval" / "other`weights"
    other.mkdir()
    data.mkdir()
    summary = {"name": hostile, "n": 1, "failed": 0, "weights": "w"}
    summary["metrics"] = {"exact_match": {"value": 1.0}, hostile: {"value": 0.5}}
    (folder / "metrics.json").write_text(json.dumps(summary))
    (other / "metrics.json").write_text(json.dumps(summary | {"weights": hostile}))
    manifest = {"source": hostile, "tasks": {hostile: 1}, "languages": {hostile: 1}}
    (data / "dataset.json").write_text(json.dumps(manifest))
    config = TrainConfig(dataset=str(data), prompts={"transcription": "read\n```\n<script>"})
    made_by = {"id": hostile, "weights": "w"}
    text = card(hostile, "merged_16bit", False, hostile, run, config, "", made_by, hostile)
    assert "\u202e" not in text and "\x1b" not in text
    body = text.split("---\n", 2)[2]
    plain = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", body)
    plain = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", plain)
    assert "<" not in plain and "](" not in plain.replace("\\](", "")
    assert [line for line in plain.splitlines() if line.startswith("# ")] == [
        "# a\\|b \\[x\\](javascript:alert(1)) &#60;script&#62; \\# \\`c\\` \\\\u202e\\\\x1b"
    ]
    rows = [line for line in plain.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
    assert "| exact_match |" in text and "other`weights" in text


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[1]",
        '{"weights": "w"}',
        '{"weights": "w", "metrics": {"cer": {"value": "<b>", "low": [1]}}}',
        '{"weights": "w", "metrics": {"cer": 3}, "n": null}',
    ],
)
def test_a_card_is_written_beside_metrics_that_are_none(tmp_path, written):
    folder = tmp_path / "run" / "eval" / "x"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(written)
    made_by = {"id": "a", "weights": "w"}
    text = card("m", "merged_16bit", False, "base", tmp_path / "run", None, "", made_by)
    assert "eval/x` cannot be read" in text or "| x | cer | ? |  |" in text
