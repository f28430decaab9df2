"""`webhost demo`: starts a stack, runs the demo on it, stops it."""

import secrets
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from webhost_kit.process.stopping import end_when_told
from webhost_local.issuer.identity import IssuerIdentity

from webhost_cli import oidc, output
from webhost_cli.client import Api
from webhost_cli.demo import books, life
from webhost_cli.demo.calls import Calls
from webhost_cli.demo.narrator import DemoFailed, Narrator
from webhost_cli.demo.own_stack import OwnStack
from webhost_cli.login import CLIENT_ID

DEFAULT_DATA_DIR = Path(".webhost-demo")


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Where the demo's stack keeps its data.")
    ] = DEFAULT_DATA_DIR,
) -> None:
    """Run an agent's whole life on this machine, on real parts, and check every step."""
    end_when_told(signal.SIGHUP)
    narrator = Narrator(output.console())
    stack = OwnStack(data_dir)
    try:
        _tell(narrator, stack)
    except DemoFailed:
        output.aside(f"\nThe end of the stack's log, {stack.log}:\n{stack.log_tail()}\n")
        raise
    output.say(
        f"\nThe demo is done: {narrator.steps} steps, {narrator.checks} checks hold, "
        f"{narrator.elapsed_s:.1f} s. Its data is kept in {data_dir}."
    )


def _tell(narrator: Narrator, stack: OwnStack) -> None:
    with ExitStack() as ending:
        with narrator.step("Start the stack: NATS, Postgres, the edge, the issuer, five services"):
            status = ending.enter_context(stack.running())
            names = [process.name for process in status.processes]
            narrator.note(f"processes: {', '.join(names)}")
            narrator.holds(f"it is ready at {status.origin}", True)
        issuer = IssuerIdentity.load_or_make(stack.data_dir).url
        api = sign_in(narrator, issuer, status.origin)
        calls = Calls(ending.enter_context(api), narrator)
        agent = life.live(narrator, calls)
        books.check_usage(narrator, calls, status)
        books.delete(narrator, calls, agent, status)
        with narrator.step("Stop the stack"):
            ending.close()
            narrator.check("processes left behind", expected=[], actual=stack.left_behind())


def sign_in(narrator: Narrator, issuer: str, origin: str) -> Api:
    """Sign in at a development issuer, as a user of the demo's own."""
    # A new user for every run, so that only this run's calls are counted.
    subject = f"demo-{secrets.token_hex(4)}"
    with narrator.step("Sign in: authorization code with PKCE, at the development issuer"):
        narrator.sent(f"GET {issuer}/authorize, POST the page's form as {subject}, POST /token")
        tokens = oidc.sign_in_as(issuer, CLIENT_ID, subject)
        narrator.got(f"an access token of {len(tokens.access_token)} characters")
        api = Api(origin, tokens.access_token)
        narrator.sent("GET /v1/me")
        user = api.get("/v1/me")["user"]
        narrator.got("the user", user)
        narrator.check("subject", expected=subject, actual=user["subject"])
        narrator.check("tier", expected="free", actual=user["tier"])
    return api
