"""The command line, assembled. A command's module is imported when the command is called."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from webhost_cli.errors import EXIT_CODES_HELP

COMMANDS = {
    "up": ("stack", "Run the whole stack on this machine until Ctrl-C."),
    "status": ("stack", "Show what is running, and where. Exits with 1 if nothing is."),
    "token": (
        "token",
        "Print a token, and nothing else: SUBJECT's, the operator's, or the one that is in use.",
    ),
    "demo": (
        "demo.command",
        "Run an agent's whole life on this machine, on real parts, and check every step.",
    ),
    "login": ("login", "Sign in, and store the token for later commands."),
    "me": ("login", "Show who is signed in, and what the plan allows."),
    "agents": ("agents", "Create and manage agents."),
    "deploy": ("deployments", "Deploy a new version of an agent."),
    "activate": (
        "deployments",
        "Send calls to another deployment, for instance back to an older one.",
    ),
    "deployments": ("deployments", "Inspect deployments."),
    "events": (
        "events",
        "Follow an agent's events until it is deleted. With --json: one event per line.",
    ),
    "audit": ("audit", "Show what was done, when, and by whom, newest first."),
    "secrets": ("secrets", "Set an agent's secrets."),
    "invoke": (
        "invoke",
        "Call an agent and print its answer. With --stream --json: one event per line.",
    ),
    "keys": ("keys", "API keys, for programs; for operators, the platform's."),
    "usage": (
        "usage",
        "Show what was used in a period, and the plan's limits. With --by: over time.",
    ),
    "billing": (
        "billing",
        "Tiers, what you pay for and what usage comes to; for operators: rebuilds, seals,"
        " subscriptions.",
    ),
    "users": ("users", "Operators: users."),
    "cloudflare": ("cloudflare", "Operators: what this installation has at Cloudflare."),
    "streams": ("streams", "Operators: projections, and republishing lost facts."),
    "deadletters": (
        "deadletters",
        "Operators: commands that no handler could handle, events that no fold could use.",
    ),
}
"""Each command's module, and its line on the help page (which imports no module)."""


def load(name: str) -> Any:
    """Import a command of COMMANDS."""
    module = import_module(f"webhost_cli.{COMMANDS[name][0]}")
    commands = typer.Typer()
    module.register(commands)
    return get_group(commands).commands[name]


class _Commands(TyperGroup):
    """Lists commands without importing them, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else listed, rest


app = typer.Typer(
    name="webhost",
    help="Host AI agents on Cloudflare Workers.",
    epilog=EXIT_CODES_HELP,
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _root() -> None:
    """Take no options of its own."""
