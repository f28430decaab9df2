"""The agents that a deployment without code of its own starts from."""

from dataclasses import dataclass
from importlib.resources import files

DEFAULT = "echo"
MAIN_MODULE_NAME = "agent.mjs"


@dataclass(frozen=True)
class Template:
    """One template: its name, a line for people, and the file in this folder that is its module."""

    name: str
    description: str
    file: str


TEMPLATES = [
    Template(
        name="echo",
        description="Echoes the last message, word by word, and counts the session's turns.",
        file="echo.mjs",
    ),
]


def load(name: str) -> str:
    """The source of a template's main module.

    Raises:
        KeyError: there is no template of that name.
    """
    file = {template.name: template.file for template in TEMPLATES}[name]
    return (files(__name__) / file).read_text(encoding="utf-8")
