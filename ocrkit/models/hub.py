"""Push an export to the Hugging Face Hub, with a model card; check for refusals before the work."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ocrkit.config import TrainConfig
from ocrkit.display.markdown import (
    markdown_block,
    markdown_code,
    markdown_table,
    markdown_text,
)
from ocrkit.environment import load_secret
from ocrkit.errors import HubError
from ocrkit.metrics.text import language_codes
from ocrkit.run_folder import describe_changes, foreign_weights, read_json, read_run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Files in a new repository of the Hub.
_INITIAL_FILES = {".gitattributes", "README.md"}


def reserve(name: str, private: bool | None = None) -> "HfApi":
    """Create the repository `name`, or check that it is empty, and return the API to push with.

    Args:
        name: "user/name".
        private: whether a new repository is private; None leaves it to the account's default.

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
        raise HubError(f"push_to_hub={name!r} is no valid name of a repository: {reason}") from None
    if "/" not in name:
        raise HubError(f"push_to_hub={name!r} names no owner; give user/name.")
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
            files = sorted(set(api.list_repo_files(name)) - _INITIAL_FILES)
            if files:
                raise HubError(
                    f"push_to_hub={name!r} exists and holds {len(files)} files ({files[0]}), which "
                    "would mix with the export; give a new name, or delete these files."
                )
        else:
            api.create_repo(name, private=private)
    except (OSError, httpx.HTTPError) as error:
        raise HubError(f"push_to_hub={name!r} failed: {_explain(error, name)}") from None
    return api


def push(api: "HfApi", name: str, folder: Path) -> str:
    """Upload all files in `folder` as a single commit and return the repository's URL.

    Raises:
        HubError: the upload failed; the folder is still there.
    """
    import httpx

    try:
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export by ocrkit")
    except (OSError, httpx.HTTPError) as error:
        raise HubError(
            f"{folder} is whole, but could not be pushed to {name}: {_explain(error, name)}"
        ) from None
    return f"{api.endpoint}/{name}"


def _explain(error: Exception, name: str) -> str:
    """Cause of a Hub error and the way out."""
    response = getattr(error, "response", None)
    if response is None:
        return "the Hub cannot be reached; check the network (and HF_HUB_OFFLINE)."
    owner = name.partition("/")[0]
    if response.status_code == 401:
        return "the Hub does not take this token; set HF_TOKEN to a valid one."
    if response.status_code in (403, 404):
        return (
            f"this token cannot write for {owner}; set HF_TOKEN to a token with write access of "
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
    """Model card (README.md) of an export: YAML metadata for the Hub, then Markdown.

    Args:
        title: name of the model or of its repository.
        format: format of the export: adapter, merged_16bit...
        adapters: whether the export holds only adapters.
        base: name of the base model.
        run: run folder with versions.json and eval/*/metrics.json, or None.
        config: settings to read pictures with; None where they are unknown.
        check: result of comparing the exported model with the trained model; empty where nothing
            was compared.
        made_by: `id` of the run that trained the weights, or None, and the weights' fingerprint
            `weights`. Evaluations in `run` of other trained weights are not shown.
        question: a prompt of the training rows; None where none is known.
    """
    data = read_json(Path(config.dataset) / "dataset.json") if config and config.dataset else {}
    versions = read_json(run / "versions.json") if run else {}
    head: dict[str, Any] = {
        "pipeline_tag": "image-text-to-text",
        "library_name": "peft" if adapters else "gguf" if format == "gguf" else "transformers",
        "tags": ["ocr", "ocrkit"],
    }
    # The Hub refuses local folders as base_model.
    if base.count("/") == 1 and not Path(base).exists():
        head["base_model"] = base
    codes = language_codes(data.get("languages", {}))
    if languages := sorted(code for code in codes if len(code) in (2, 3)):
        head["language"] = languages
    sections = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        f"# {markdown_text(title.rpartition('/')[2])}",
    ]
    kind = "LoRA adapters on" if adapters else "A fine-tuned model made from"
    shown = base if "base_model" in head else Path(base).name
    sections.append(f"{kind} {markdown_code(shown)}, exported as {format} by ocrkit.")
    weights = f"eights {markdown_code(made_by['weights'])}."
    run_id = markdown_code(made_by["id"]) if made_by["id"] else ""
    sections.append(f"Run {run_id}, w{weights}" if run_id else f"W{weights}")
    if check:
        sections.append(check)
    sections += ["## Use", _use(title, format, question, config or TrainConfig())]
    if run and (table := _metrics(run, made_by["weights"])):
        sections += ["## Metrics", table]
    if data:
        sections += ["## Data", _data(data)]
    if settings := _settings(run, config):
        defaults = TrainConfig().to_dict()
        changed = {n: v for n, v in settings.items() if n in defaults and v != defaults[n]}
        for name in ("output_dir", "dataset", "resume_from_checkpoint"):
            changed.pop(name, None)
        if Path(changed.get("model_name_or_path", "")).is_absolute():
            changed["model_name_or_path"] = Path(changed["model_name_or_path"]).name
        text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
        block = markdown_block(text.rstrip("\n"), "yaml")
        sections += ["## Recipe", f"Settings that differ from the defaults:\n\n{block}"]
        for change in versions.get("changes", []):
            changes = markdown_code(describe_changes(change["changed"]))
            sections.append(f"Changed at step {markdown_text(change['step'])}: {changes}.")
    if versions:
        packages = {"python": versions.get("python"), **versions.get("packages", {})}
        listed = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        sections += ["## Versions", markdown_text(listed)]
    return "\n\n".join(sections) + "\n"


def _settings(run: Path | None, config: TrainConfig | None) -> dict[str, Any]:
    """Settings of the run's config.yaml, else of `config`; for display only."""
    saved = run / "config.yaml" if run else None
    if saved and saved.is_file():
        return yaml.safe_load(saved.read_text(encoding="utf-8")) or {}
    return config.to_dict() if config else {}


def _use(title: str, format: str, question: str | None, config: TrainConfig) -> str:
    """Shell commands that read pictures with the model."""
    prompt, model = shlex.quote(question or "PROMPT"), shlex.quote(title)
    note = "Ask what it was trained on, word for word."
    if format == "gguf":
        files = "-m *.Q8_0.gguf --mmproj *mmproj.gguf --jinja"
        command = f"llama-mtmd-cli {files} --temp 0 --image picture.png -p {prompt}"
        note += (
            " Give it pictures whose sides are multiples of a token's, as "
            "`ocrkit.data.patches.fitted` makes them: llama.cpp lays others on black ground."
        )
    else:
        command = f"python -m ocrkit predict pictures/ --model {model} --prompt {prompt}"
        # Settings that a processor does not hold.
        for name in ("image_height", "max_new_tokens"):
            if (value := getattr(config, name)) != getattr(TrainConfig(), name):
                command += f" --{name} {value}"
    if format == "merged_16bit":
        command += f"\nvllm serve {model} --max-model-len 4096"
        note += " Ask vLLM at temperature 0."
    if config.image_height and format != "adapter":
        note += f" Others than ocrkit need pictures {config.image_height} pixels high."
    return f"{markdown_block(command, 'sh')}\n\n{note}"


def _number(metric: object, key: str) -> str:
    """Format a number of a metric; empty where it is none."""
    value = metric.get(key) if isinstance(metric, dict) else None
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def _metrics(run: Path, weights: str) -> str:
    """Markdown table of metrics with intervals; empty where nothing was evaluated.

    An evaluation of other weights than the model's, or than those that its run began from, is not
    shown; a note below the table names it.
    """
    rows, notes = [], []
    record = read_run(run)
    is_of_run = weights in (record.get("weights"), record.get("start"))
    expected = {"weights": weights, "start": record.get("start") if is_of_run else None}
    for path in sorted(run.glob("eval/*/metrics.json")):
        summary = read_json(path)
        if not isinstance(summary.get("metrics"), dict):
            notes.append(f"\n{markdown_code(f'eval/{path.parent.name}')} cannot be read.")
            continue
        if problem := foreign_weights(summary, expected):
            notes.append(
                f"\nThe evaluation {markdown_code(path.parent.name)} is not shown: "
                f"{markdown_text(problem)}. Run `python -m ocrkit evaluate` again."
            )
            continue
        evaluation = markdown_text(summary.get("name", path.parent.name))
        for name, metric in summary["metrics"].items():
            value, low, high = (_number(metric, key) for key in ("value", "low", "high"))
            interval = f"{low} to {high}" if low and high else ""
            rows.append([evaluation, markdown_text(name), value or "?", interval])
        n, failed = (markdown_text(summary.get(key, "?")) for key in ("n", "failed"))
        rows.append([evaluation, "rows", n, f"{failed} failed"])
    head = ["evaluation", "metric", "value", "95 % interval"]
    return "\n".join([*(markdown_table(head, rows) if rows else []), *notes])


def _data(data: dict) -> str:
    """Markdown list of the dataset's source, rows, tasks and languages, from dataset.json."""
    lines = [f"* Source: {markdown_text(data.get('source', 'unknown'))}"]
    for title, name in (
        ("Rows", "rows"),
        ("Left out", "rejects"),
        ("Tasks", "tasks"),
        ("Languages", "languages"),
    ):
        if data.get(name):
            listed = data[name]
            if isinstance(listed, dict):
                listed = ", ".join(f"{key} {count}" for key, count in listed.items())
            lines.append(f"* {title}: {markdown_text(listed)}")
    return "\n".join(lines)
