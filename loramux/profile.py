"""What `loramux up` writes down, so that other commands and programs on this machine find it."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from loramux import private_file

FILE_NAME = "current.json"


@dataclass(frozen=True)
class Profile:
    """Where the running services are, and the keys to them. The file is readable by its owner alone."""

    target: str
    """The gateway's host:port."""
    api_key: str
    """A key of the account that `loramux up` made."""
    operator_key: str
    """For making accounts and granting credit."""
    hub_endpoint: str
    """Where adapters are fetched from."""


def home() -> Path:
    """`$LORAMUX_HOME`; `~/.cache/loramux` unless set."""
    given = os.environ.get("LORAMUX_HOME")
    return Path(given) if given else Path.home() / ".cache" / "loramux"


def load() -> Profile | None:
    """The services that run now; None where none do, or where the file is not one of ours."""
    try:
        content = json.loads((home() / FILE_NAME).read_text())
        return Profile(**{field.name: str(content[field.name]) for field in fields(Profile)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(profile: Profile) -> Path:
    """Write the file, mode 0600, in one rename; returns its path."""
    place = home() / FILE_NAME
    private_file.write(place, json.dumps(asdict(profile), indent=2))
    return place


def forget(profile: Profile) -> None:
    """Remove the file if it still speaks of these services."""
    if load() == profile:
        (home() / FILE_NAME).unlink(missing_ok=True)
