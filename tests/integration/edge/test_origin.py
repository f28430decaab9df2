"""What the services behind the origin learn of a client, and what a client may send."""

import asyncio
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from webhost_kit.http.connection import MAX_HEAD_BYTES

from tests.support.edge import Edge, start_edge
from tests.support.serving import serving


def told(request: Request) -> JSONResponse:
    return JSONResponse(request.headers.getlist("x-forwarded-for"))


@pytest.mark.accept("6.C1")
async def test_services_are_told_the_client_s_address_and_not_what_it_says(tmp_path: Path) -> None:
    service = Starlette(routes=[Route("/v1/me", told)])
    gateway = Starlette(
        routes=[Route("/v1/delegated/invoke/agt_1", lambda _: JSONResponse("called"))]
    )
    async with (
        serving(service) as url,
        serving(gateway) as gateway_url,
        start_edge(
            tmp_path / "data", EDGE_UPSTREAM_API=url, EDGE_UPSTREAM_GATEWAY=gateway_url
        ) as edge,
    ):
        async with edge.http.get(f"{edge.origin}/v1/delegated/invoke/agt_1") as response:
            assert await response.json() == "called"
        for said in ({}, {"X-Forwarded-For": "192.0.2.1"}):
            async with edge.http.get(f"{edge.origin}/v1/me", headers=said) as response:
                assert await response.json() == ["127.0.0.1"]


@pytest.mark.parametrize("listener", ["origin", "api_base_url"])
async def test_a_head_without_an_end_is_refused(edge: Edge, listener: str) -> None:
    port = urlsplit(getattr(edge, listener)).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        # One byte too many, and no more: what the edge left unread would reset the connection.
        writer.write(b"GET / HTTP/1.1\r\nX-Long: ".ljust(MAX_HEAD_BYTES + 1, b"a"))
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 400 ")
