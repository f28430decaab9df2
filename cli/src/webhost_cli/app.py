"""The command line, assembled: one module per group of commands, each with a `register`."""

import typer

from webhost_cli import (
    agents,
    billing,
    deadletters,
    deployments,
    invoke,
    login,
    stack,
    token,
    usage,
    users,
)
from webhost_cli.demo import command as demo
from webhost_cli.errors import EXIT_CODES_HELP

app = typer.Typer(
    name="webhost",
    help="Host AI agents on Cloudflare Workers.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

for group in (
    *(stack, token, demo, login),
    *(agents, deployments, invoke, usage),
    *(billing, users, deadletters),
):
    group.register(app)
