"""Files -> a model repository on the hub, in one commit. The token comes from the environment alone."""

import os
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from asr_lora.errors import AsrLoraError, ConfigError, first_line

TOKEN = "HF_TOKEN"
REFUSALS: tuple[type[Exception], ...] = (ValueError, *HfHubHTTPError.__bases__)  # whichever HTTP library it uses


def require_token() -> str:
    """Return the token.

    Raises:
        ConfigError: there is none.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(f"publishing on the hub needs a token that may write: export {TOKEN}=...")
    return token


def upload(files: Mapping[str, Path | bytes], repository: str, *, private: bool) -> str:
    """Create a repository where there is none, and commit all files at once; return the commit's address.

    Raises:
        ConfigError: there is no token, or the repository is public where a private one is asked for.
        AsrLoraError: the hub refuses, or does not answer.
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
        raise AsrLoraError(f"{repository} could not be published ({reason}): nothing, or all of it, is there") from None
    if public:
        raise ConfigError(f"{repository} is there already and public: make it private there, or leave out --private")
    return str(done.commit_url)
