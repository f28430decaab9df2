"""The command line, assembled: one module per group of commands, each with a `register`."""

import typer

from webhost_cli import stack, token

app = typer.Typer(
    name="webhost",
    help="Host AI agents on Cloudflare Workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

for group in (stack, token):
    group.register(app)
