"""Finding a checkpoint in a directory, a run or the hub, and uploading one to the hub."""

from __future__ import annotations

from pathlib import Path

from kerasllm.errors import InputError

_FILES = ["*.json", "model*.safetensors", "vocab.txt", "merges.txt", "*.jinja"]
"""The files that are downloaded from a repository, none of which is a pickle or a program."""

_MODULE_FILES = ["[1-9]_*/config.json", "[1-9]_*/model.safetensors"]
"""The files in the folders of a sentence encoder's modules."""


def resolve_directory(source: str | Path, revision: str | None = None) -> Path:
    """Returns the directory of a model: itself, the `model/` of a run, or a download in huggingface-hub's cache.

    Args:
        source: a directory, or a hub id OWNER/NAME or OWNER/NAME@REVISION. With `HF_HUB_OFFLINE=1` only the cache
            is searched.
        revision: the branch, tag or commit of a hub id.

    Raises:
        InputError: there is no such directory or hub model, or the hub does not answer.
    """
    path = Path(source)
    if revision is not None and path.exists():
        raise InputError(f"{path}: is on this machine and has no revision {revision!r}; leave it out")
    if (path / "config.json").is_file():
        return path
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if path.is_dir():
        raise InputError(
            f"{path}: holds no config.json and no model/config.json: it is no model and no finished run"
        )
    if path.exists():
        keras_file = path.suffix in (".keras", ".h5")
        mend = "; keras.saving.load_model reads it" if keras_file else ""
        raise InputError(f"{path}: is a file, where a directory with config.json is wanted{mend}")
    name, _, after = str(source).partition("@")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise InputError(f"{path}: there is no such directory")
    if after and revision:
        raise InputError(f"{source}: names a revision, and revision is {revision!r}; give one of the two")
    from huggingface_hub import snapshot_download

    wanted = after or revision
    try:
        found = Path(snapshot_download(name, revision=wanted, allow_patterns=_FILES, ignore_patterns=["*/*"]))
        if (found / "modules.json").is_file():  # of sentence-transformers, with a folder for each module
            snapshot_download(name, revision=wanted, allow_patterns=_MODULE_FILES)
        return found
    except Exception as error:  # the hub's client raises exceptions of many types
        raise InputError(
            f"{source}: no such directory, and the hub gave no such model ({_reason(error)})"
        ) from error


def upload_directory(
    directory: Path, repo_id: str, *, private: bool | None = None, revision: str | None = None, message: str
) -> str:
    """Uploads the files of a model directory to a hub repository, which is created if it is missing.

    Args:
        directory: the directory; hidden files are left out.
        repo_id: the repository, OWNER/NAME.
        private: whether a new repository is private; None means the owner's default.
        revision: the branch; None means the main branch.
        message: the commit message.

    Returns:
        The URL of the commit.

    Raises:
        InputError: the repository's name is invalid, the upload is not permitted, or the hub does not answer.
    """
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        repository = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=directory,
            revision=revision,
            commit_message=message,
            ignore_patterns=[".*"],
        )
    except Exception as error:
        raise InputError(
            f"{repo_id}: cannot be sent to the hub ({_reason(error)}); sign in with `hf auth login`, "
            "or set HF_TOKEN to a token that may write there"
        ) from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
