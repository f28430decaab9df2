"""What the services behind the origin learn of a client."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.support.edge import start_edge
from tests.support.serving import serving


def told(request: Request) -> JSONResponse:
    return JSONResponse(request.headers.getlist("x-forwarded-for"))


@pytest.mark.accept("6.C1")
async def test_services_are_told_the_client_s_address_and_not_what_it_says(tmp_path: Path) -> None:
    service = Starlette(routes=[Route("/v1/me", told)])
    async with (
        serving(service) as url,
        start_edge(tmp_path / "data", EDGE_UPSTREAM_API=url) as edge,
    ):
        for said in ({}, {"X-Forwarded-For": "192.0.2.1"}):
            async with edge.http.get(f"{edge.origin}/v1/me", headers=said) as response:
                assert await response.json() == ["127.0.0.1"]
