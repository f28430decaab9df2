"""The health check of a container: one request to /readyz, and an exit code."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from webhost_kit.process import healthcheck


class Operations(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"status":"said"}')

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def operations() -> Iterator[tuple[type[Operations], int]]:
    class Own(Operations):
        pass

    with HTTPServer(("127.0.0.1", 0), Own) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Own, server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_ends_with_what_the_service_says(
    operations: tuple[type[Operations], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: int,
    host: str,
) -> None:
    handler, port = operations
    handler.status = status
    monkeypatch.setenv("OPS_LISTEN", f"{host}:{port}")
    assert healthcheck.main([]) == code
    assert capsys.readouterr().out == '{"status":"said"}\n'


def test_the_address_may_be_given(operations: tuple[type[Operations], int]) -> None:
    _, port = operations
    assert healthcheck.main([f"127.0.0.1:{port}"]) == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "", "nowhere"])
def test_who_does_not_answer_is_not_healthy(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("OPS_LISTEN", address)
    assert healthcheck.main([]) == 1


def test_it_loads_next_to_nothing() -> None:
    """It is a process of its own, every few seconds, in every container."""
    script = "import sys, webhost_kit.process.healthcheck; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"pydantic", "structlog", "httpx", "asyncio"} & set(loaded)
