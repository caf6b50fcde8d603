"""Push an export to the Hugging Face Hub; whatever would refuse it is found before the work."""

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from ocrkit.config import TrainConfig
from ocrkit.display.markdown import markdown_block, markdown_code, markdown_text
from ocrkit.environment import load_secret
from ocrkit.run_folder import describe_changes, foreign_weights, read_run

# What a repository of the Hub holds when nobody has put anything into it.
_EMPTY = {".gitattributes", "README.md"}


class HubError(RuntimeError):
    """A repository that cannot be pushed to: value, cause and way out in one sentence."""


def reserve(name: str, private: bool | None = None) -> Any:
    """The Hub's HfApi, with a new or empty repository `name` ("user/name") to push to.

    Args:
        private: None leaves it to the account's default.

    Raises:
        HubError: no token, no network, no right to write, or a repository that holds files.
    """
    import httpx
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise HubError(f"push_to_hub={name!r} is no name of a repository: {reason}") from None
    if "/" not in name:
        raise HubError(f"push_to_hub={name!r} does not say whose it is; give user/name.")
    load_secret("HF_TOKEN")
    token = get_token()
    if token is None:
        raise HubError(
            f"push_to_hub={name!r} needs a token that may write: set HF_TOKEN (in Colab and Kaggle "
            "a secret of that name), or run `hf auth login`."
        )
    api = HfApi(token=token)
    try:
        if api.repo_exists(name):
            held = sorted(set(api.list_repo_files(name)) - _EMPTY)
            if held:
                raise HubError(
                    f"push_to_hub={name!r} exists and holds {len(held)} files ({held[0]}), which "
                    "would mix with the export; give a new name, or delete what it holds."
                )
        else:
            api.create_repo(name, private=private)
    except (OSError, httpx.HTTPError) as error:
        raise HubError(f"push_to_hub={name!r} failed: {_why(error, name)}") from None
    return api


def push(api: Any, name: str, folder: Path) -> str:
    """Upload everything in `folder` as one commit and return the address of the repository.

    Raises:
        HubError: the upload failed; the folder is still there.
    """
    import httpx

    try:
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export by ocrkit")
    except (OSError, httpx.HTTPError) as error:
        raise HubError(
            f"{folder} is whole, but could not be pushed to {name}: {_why(error, name)}"
        ) from None
    return f"{api.endpoint}/{name}"


def _why(error: Exception, name: str) -> str:
    """The cause of a refusal and the way out."""
    response = getattr(error, "response", None)
    if response is None:
        return "the Hub cannot be reached; check the network (and HF_HUB_OFFLINE)."
    owner = name.partition("/")[0]
    if response.status_code == 401:
        return "the Hub does not take this token; set HF_TOKEN to a valid one."
    if response.status_code in (403, 404):
        return (
            f"this token may not write for {owner}; set HF_TOKEN to a token with write access of "
            f"{owner} or of a member of it."
        )
    return " ".join(str(error).split())[:300]


def card(
    title: str,
    format: str,
    adapters: bool,
    base: str,
    run: Path | None,
    config: TrainConfig | None,
    check: str,
    made_by: dict[str, Any],
    question: str | None = None,
) -> str:
    """README.md of an exported model, in Markdown under the metadata that the Hub reads.

    Args:
        title: name of the model, or of its repository of the Hub.
        format: what was asked for: adapter, merged_16bit...
        adapters: whether it holds adapters alone, and no whole model.
        base: name of the base model.
        run: run folder with versions.json and eval/*/metrics.json; None where there is none.
        config: settings to read pictures with; None where they are unknown.
        check: what comparing the exported model with the trained one came to; empty: nothing was
            compared.
        made_by: `id` of the run that made the weights, None where none did, and their fingerprint
            `weights`. Evaluations in `run` of other trained weights are not shown.
        question: a prompt as the model was trained on it; None where none is known.
    """
    data = _json(Path(config.dataset) / "dataset.json") if config and config.dataset else {}
    versions = _json(run / "versions.json") if run else {}
    head: dict[str, Any] = {
        "pipeline_tag": "image-text-to-text",
        "library_name": "peft" if adapters else "gguf" if format == "gguf" else "transformers",
        "tags": ["ocr", "ocrkit"],
    }
    # A folder of this machine means nothing to others, and the Hub refuses it.
    if base.count("/") == 1 and not Path(base).exists():
        head["base_model"] = base
    if languages := sorted(name for name in data.get("languages", {}) if len(name) in (2, 3)):
        head["language"] = languages
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        f"# {markdown_text(title.rpartition('/')[2])}",
    ]
    kind = "LoRA adapters on" if adapters else "A fine-tuned model made from"
    shown = base if "base_model" in head else Path(base).name
    parts.append(f"{kind} {markdown_code(shown)}, exported as {format} by ocrkit.")
    by = f"Run {markdown_code(made_by['id'])}, w" if made_by["id"] else "W"
    parts.append(f"{by}eights {markdown_code(made_by['weights'])}.")
    if check:
        parts.append(check)
    parts += ["## Use", _use(title, format, question, config or TrainConfig())]
    if run and (table := _metrics(run, made_by["weights"])):
        parts += ["## Metrics", table]
    if data:
        parts += ["## Data", _data(data)]
    if settings := _settings(run, config):
        plain = TrainConfig().to_dict()
        changed = {n: v for n, v in settings.items() if n in plain and v != plain[n]}
        for name in ("output_dir", "dataset", "resume_from_checkpoint"):
            changed.pop(name, None)
        if Path(changed.get("model_name_or_path", "")).is_absolute():
            changed["model_name_or_path"] = Path(changed["model_name_or_path"]).name
        text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
        block = markdown_block(text.rstrip("\n"), "yaml")
        parts += ["## Recipe", f"Settings that differ from the defaults:\n\n{block}"]
        for change in versions.get("changes", []):
            changes = markdown_text(describe_changes(change["changed"]))
            parts.append(f"Changed at step {markdown_text(change['step'])}: {changes}.")
    if versions:
        found = {"python": versions.get("python"), **versions.get("packages", {})}
        listed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
        parts += ["## Versions", markdown_text(listed)]
    return "\n\n".join(parts) + "\n"


def _settings(run: Path | None, config: TrainConfig | None) -> dict[str, Any]:
    """Return what the run was trained with: its own config.yaml, else the config; shown only."""
    saved = run / "config.yaml" if run else None
    if saved and saved.is_file():
        return yaml.safe_load(saved.read_text(encoding="utf-8")) or {}
    return config.to_dict() if config else {}


def _use(title: str, format: str, question: str | None, config: TrainConfig) -> str:
    """How to read pictures with the model, from a shell."""
    asked, model = shlex.quote(question or "PROMPT"), shlex.quote(title)
    after = "Ask what it was trained on, word for word."
    if format == "gguf":
        files = "-m *.Q8_0.gguf --mmproj *mmproj.gguf --jinja"
        command = f"llama-mtmd-cli {files} --temp 0 --image picture.png -p {asked}"
        after += (
            " Give it pictures whose sides are multiples of a token's, as "
            "`ocrkit.data.patches.fitted` makes them: llama.cpp lays others on black ground."
        )
    else:
        command = f"python -m ocrkit predict pictures/ --model {model} --prompt {asked}"
        # What a processor does not hold.
        for name in ("image_height", "max_new_tokens"):
            if (value := getattr(config, name)) != getattr(TrainConfig(), name):
                command += f" --{name} {value}"
    if format == "merged_16bit":
        command += f"\nvllm serve {model} --max-model-len 4096"
        after += " Ask vLLM at temperature 0."
    if config.image_height and format != "adapter":
        after += f" Others than ocrkit need pictures {config.image_height} pixels high."
    return f"{markdown_block(command, 'sh')}\n\n{after}"


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _metrics(run: Path, weights: str) -> str:
    """A row an evaluation and metric, with its interval; empty where nothing was evaluated.

    Evaluations of other weights than the model's, and than those that its run began from, are
    named below and not shown.
    """
    rows, left_out = [], []
    began = read_run(run)
    of_the_run = weights in (began.get("weights"), began.get("start"))
    for path in sorted(run.glob("eval/*/metrics.json")):
        summary = _json(path)
        beside = {"weights": weights, "start": began.get("start") if of_the_run else None}
        if problem := foreign_weights(summary, beside):
            left_out.append(
                f"\nThe evaluation {markdown_code(path.parent.name)} is not shown: "
                f"{markdown_text(problem)}. Run `python -m ocrkit evaluate` again."
            )
            continue
        evaluation = markdown_text(summary["name"])
        for name, metric in summary["metrics"].items():
            value, low, high = metric["value"], metric.get("low"), metric.get("high")
            interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
            rows.append(f"| {evaluation} | {markdown_text(name)} | {value:.4f} | {interval} |")
        n, failed = markdown_text(summary["n"]), markdown_text(summary["failed"])
        rows.append(f"| {evaluation} | rows | {n} | {failed} failed |")
    if rows:
        rows[:0] = ["| evaluation | metric | value | 95 % interval |", "| --- | --- | --- | --- |"]
    return "\n".join([*rows, *left_out])


def _data(data: dict) -> str:
    """What dataset.json says of the rows that the model was trained and measured on."""
    lines = [f"* Source: {markdown_text(data.get('source', 'unknown'))}"]
    for title, name in (
        ("Rows", "rows"),
        ("Left out", "rejects"),
        ("Tasks", "tasks"),
        ("Languages", "languages"),
    ):
        if data.get(name):
            counts = data[name]
            listed = counts
            if isinstance(counts, dict):
                listed = ", ".join(f"{key} {count}" for key, count in counts.items())
            lines.append(f"* {title}: {markdown_text(listed)}")
    return "\n".join(lines)
