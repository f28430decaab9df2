"""Commands of `webhost billing`, with a bus that replies as a test says."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from webhost_cli import billing, bus
from webhost_cli.errors import CommandError

Said = Callable[..., str]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run `webhost billing …`, billing replying this; return what it prints."""

    def run(reply: Any, *arguments: str) -> str:
        def answered(work: Coroutine[Any, Any, Any]) -> Any:
            work.close()
            return reply

        monkeypatch.setattr(bus, "run", answered)
        monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
        app = typer.Typer()
        billing.register(app)
        ended = CliRunner().invoke(app, ["billing", *arguments])
        if isinstance(ended.exception, CommandError):
            raise ended.exception
        assert ended.exit_code == 0, ended.output
        return ended.output

    return run
