"""Where the base model's folder lies, and whether it is whole. Free of torch, so that a start-up check costs nothing."""

import os
from pathlib import Path

NAME = "smollm2-135m-instruct"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


class BaseFolderError(Exception):
    """The base model's folder could not be made; the message says what to do."""


def default_folder() -> Path:
    """`$LORAMUX_HOME/bases/smollm2-135m-instruct`; LORAMUX_HOME is `~/.cache/loramux` unless set."""
    home = os.environ.get("LORAMUX_HOME")
    root = Path(home) if home else Path.home() / ".cache" / "loramux"
    return root / "bases" / NAME


def is_complete(folder: Path) -> bool:
    """Whether every file is there. A folder appears by one rename, so a file that is there is whole."""
    return all((folder / name).is_file() for name in FILES)
