"""Push an export to the Hugging Face Hub; whatever would refuse it is found before the work."""

from pathlib import Path
from typing import Any

from ocrkit.places import load_secret

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
