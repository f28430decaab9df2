"""docs/openapi.json is what the program says of itself, and can be read at /v1/docs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from fastapi.routing import iter_route_contexts
from openapi_spec_validator import OpenAPIV31SpecValidator
from webhost_api.app import build
from webhost_api.openapi import document
from webhost_contracts.invoke import InvokeRequest
from webhost_gateway import routes as gateway
from webhost_telemetry_ingest import routes as ingest

from tests.support.serving import serving

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(document())


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def test_the_committed_document_is_current() -> None:
    assert COMMITTED.read_text("utf-8") == document()


def test_it_is_valid() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []
    components = DOCUMENT["components"]
    named = {f"#/components/{kind}/{name}" for kind, of in components.items() for name in of}
    assert set(references(DOCUMENT)) <= named


def test_every_route_is_described() -> None:
    described = {(method, path) for method, path, _ in operations()}
    served = {
        (method.lower(), route.path)
        for route in iter_route_contexts(build().routes)
        if route.path and not route.path.startswith("/v1/docs")
        for method in route.methods or ()
        if route.path != "/v1/openapi.json"
    }
    of_others = {
        ("post", f"{gateway.PREFIX}{{agentId}}"),
        ("post", f"{gateway.PREFIX}{{agentId}}{gateway.STREAM_SUFFIX}"),
        ("post", f"{gateway.DELEGATED_PREFIX}{{agentId}}"),
        ("post", ingest.PATH),
    }
    assert described == served | of_others


@pytest.mark.parametrize(("method", "path", "operation"), list(operations()))
def test_failures_are_the_envelope_and_callers_are_known(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    envelope = {"$ref": "#/components/schemas/ErrorResponse"}
    failures = {
        status: response
        for status, response in operation["responses"].items()
        if not status.startswith("2")
    }
    assert failures
    for response in failures.values():
        assert response["content"]["application/json"]["schema"] == envelope
    [(scheme, _)] = operation["security"][0].items()
    assert scheme in DOCUMENT["components"]["securitySchemes"]


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({"input": {"prompt": "Hello"}}, True),
        ({"input": {"messages": [{"role": "user", "content": "Hello"}]}, "sessionId": "s"}, True),
        ({"input": {"prompt": "Hello"}, "stream": True}, False),
        ({"input": {"messages": []}}, False),
        ({"input": {"prompt": "Hello"}, "options": {"maxSteps": 0}}, False),
        ({}, False),
    ],
)
def test_an_invocations_schema_takes_what_the_gateway_takes(body: Any, right: bool) -> None:
    schema = {"$ref": "#/components/schemas/InvokeRequest", "components": DOCUMENT["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) is right
    try:
        msgspec.convert(body, InvokeRequest)
    except msgspec.ValidationError:
        assert not right
    else:
        assert right


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    async with serving(build()) as origin, httpx.AsyncClient(base_url=origin) as http:
        page = await http.get("/v1/docs")
        assert page.headers["Content-Type"].startswith("text/html")
        assert "://" not in page.text
        assert '"validatorUrl": null' in page.text
        assert (await http.get("/v1/openapi.json")).json() == DOCUMENT
        assert "'/v1/openapi.json'" in page.text
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(linked) == 3
        for address in linked:
            asset = await http.get(address)
            assert asset.status_code == 200, address
            if address.endswith(".css"):
                # Styles draw their pictures from themselves.
                assert set(re.findall(r"url\(([a-z]*:|//)", asset.text)) <= {"data:"}
