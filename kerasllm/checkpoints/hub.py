"""Where a checkpoint is: a directory, a run, or the hub, from which it is fetched and to which it is sent."""

from __future__ import annotations

from pathlib import Path

from kerasllm.errors import InputError

_FILES = ["*.json", "model*.safetensors", "vocab.txt", "merges.txt", "*.jinja"]
"""What of a repository is fetched: never a pickle, and no program."""


def resolve_directory(source: str | Path, revision: str | None = None) -> Path:
    """A model directory, a run directory's `model/`, or a hub id, fetched into huggingface-hub's cache.

    Args:
        source: the directory, or OWNER/NAME, or OWNER/NAME@REVISION. With `HF_HUB_OFFLINE=1` only the cache
            is asked.
        revision: of a hub id: branch, tag or commit.

    Raises:
        InputError: neither is there, or the hub does not answer.
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

    try:
        return Path(
            snapshot_download(
                name, revision=after or revision, allow_patterns=_FILES, ignore_patterns=["*/*"]
            )
        )
    except Exception as error:  # the hub's client raises many kinds, none of them ours to mend
        raise InputError(
            f"{source}: no such directory, and the hub gave no such model ({_reason(error)})"
        ) from error


def upload_directory(
    directory: Path, repo_id: str, *, private: bool | None = None, revision: str | None = None, message: str
) -> str:
    """Sends the files of a model directory to the hub, whose repository is made if it is missing.

    Args:
        directory: all its files are sent but hidden ones.
        repo_id: OWNER/NAME.
        private: of a new repository; the owner's default where None.
        revision: branch; the main one where None.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        InputError: no name of a repository, no permission, or the hub does not answer.
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
