"""Upload files to a model repository on the Hugging Face hub in one commit."""

import os
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from asr_lora.errors import AsrLoraError, ConfigError, first_line

TOKEN = "HF_TOKEN"
REFUSALS: tuple[type[Exception], ...] = (ValueError, *HfHubHTTPError.__bases__)  # whichever HTTP library it uses


def require_token() -> str:
    """Return the hub token from the environment variable HF_TOKEN, the only place that is read for it.

    Raises:
        ConfigError: the variable is not set.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(f"publishing on the hub needs a token that may write: export {TOKEN}=...")
    return token


def upload(files: Mapping[str, Path | bytes], repository: str, *, private: bool) -> str:
    """Create the repository if it does not exist, commit all files at once, and return the address of the commit.

    Raises:
        ConfigError: HF_TOKEN is not set, or `private` is asked for and the repository is public.
        AsrLoraError: the hub refuses the upload or does not answer.
    """
    token = require_token()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        public = private and not api.model_info(repository).private
        if not public:
            done = api.create_commit(repository, operations, commit_message="Model, model card and proof of parity")
    except REFUSALS as error:
        reason = first_line(error).replace(token, "...")
        raise AsrLoraError(
            f"{repository} could not be published ({reason}); the commit is either complete or absent"
        ) from None
    if public:
        raise ConfigError(f"{repository} exists and is public: make it private on the hub, or leave out --private")
    return str(done.commit_url)
