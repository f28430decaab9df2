"""docs/openapi.json is what the program says of itself, and can be read at /v1/docs."""

import inspect
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import jsonschema
import msgspec
import pytest
from fastapi.routing import iter_route_contexts
from openapi_spec_validator import OpenAPIV31SpecValidator
from webhost_api.app import build
from webhost_api.openapi import document
from webhost_api.openapi_responses import REFUSALS
from webhost_contracts.errors import HTTP_STATUS, ErrorCode, ErrorEnvelope
from webhost_gateway import routes as gateway
from webhost_gateway.decisions import parse
from webhost_kit.errors import BadToken, InvalidRequest
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


def served_by_the_api() -> set[tuple[str, str]]:
    return {
        (method.lower(), route.path)
        for route in iter_route_contexts(build().routes)
        if route.path and not route.path.startswith("/v1/docs")
        for method in route.methods or ()
        if route.path != "/v1/openapi.json"
    }


async def answered_404(app: Any, method: str, path: str) -> bool:
    """Whether this raw ASGI application does not know the path."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": method.upper(), "path": path, "headers": []}
    await app(scope | {"client": ("127.0.0.1", 1)}, receive, send)
    return bool(sent) and sent[0]["status"] == 404


@pytest.mark.accept("7.openapi")
async def test_the_document_describes_the_routes_of_all_services_and_no_other() -> None:
    described = {(method, path) for method, path, _ in operations()}
    of_the_api = served_by_the_api()
    assert of_the_api <= described
    # Each endpoint of the gateway is an argument of its application, and reached by one operation.
    reached: Counter[str] = Counter()

    def endpoint(name: str) -> Any:
        async def reach(_request: Any) -> None:
            reached[name] += 1

        return reach

    names = [name for name in inspect.signature(gateway.InvokeApp).parameters if name != "origins"]
    invoke_app: Any = gateway.InvokeApp
    gateway_app = invoke_app(**{name: endpoint(name) for name in names}, origins=())
    ingest_app = ingest.ReportApp(MagicMock(**{"credentials.side_effect": BadToken("no")}))
    for method, path in described - of_the_api:
        concrete = re.sub(r"{\w+}", "x", path)
        apps = (gateway_app, ingest_app)
        known = [app for app in apps if not await answered_404(app, method, concrete)]
        assert len(known) == 1, (method, path)
    assert reached == Counter(names)


@pytest.mark.accept("7.openapi")
@pytest.mark.parametrize(("method", "path", "operation"), list(operations()))
def test_an_operation_is_described_whole(method: str, path: str, operation: dict[str, Any]) -> None:
    [(scheme, _)] = operation["security"][0].items()
    assert scheme in DOCUMENT["components"]["securitySchemes"]
    responses = operation["responses"]
    assert all(re.fullmatch("[1-5][0-9]{2}", status) for status in responses), "no wildcard"
    assert {"401", "408", "413", "429", "500", "503"} <= set(responses)
    assert ("404" in responses) >= ("{" in path)
    assert any(status.startswith("2") for status in responses)
    for status, response in responses.items():
        response = resolved(response)
        assert "X-Request-Id" in response["headers"]
        for content_type, media in response.get("content", {}).items():
            # The schema of a stream is that of one event.
            if content_type != "text/event-stream":
                assert is_valid(media["example"], media["schema"]), (status, media["example"])
    for media in operation.get("requestBody", {}).get("content", {}).values():
        assert is_valid(media["example"], media["schema"]), media["example"]
    for parameter in operation.get("parameters", ()):
        assert is_valid(parameter["example"], parameter["schema"]), parameter


@pytest.mark.accept("7.openapi")
def test_every_refusal_is_the_envelope_of_its_code() -> None:
    for status, refusal in REFUSALS.items():
        [media] = refusal.response()["content"].values()
        body = media["example"]
        msgspec.convert(body, ErrorEnvelope)
        assert is_valid(body, media["schema"])
        assert HTTP_STATUS[refusal.code] == {408: 400, 504: 502}.get(status, status)
        assert not is_valid({"error": body["error"] | {"code": "OTHER"}}, media["schema"])
    codes = set(HTTP_STATUS) - {ErrorCode.METHOD_NOT_ALLOWED}
    assert {refusal.code for refusal in REFUSALS.values()} == codes


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        _, _, kind, name = part["$ref"].split("/")
        part = DOCUMENT["components"][kind][name]
    return part


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    whole = schema | {"components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(whole).is_valid(value)


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({"input": {"prompt": "Hello"}}, True),
        ({"input": {"messages": [{"role": "user", "content": "Hello"}]}, "sessionId": "s"}, True),
        ({"input": {"prompt": "Hello"}, "stream": True}, False),
        ({"input": {"messages": []}}, False),
        ({"input": {"prompt": "Hello", "messages": [{"role": "user", "content": "a"}]}}, False),
        ({"input": {}}, False),
        ({"input": {"prompt": "Hello"}, "options": {"maxSteps": 0}}, False),
        ({}, False),
    ],
)
def test_an_invocations_schema_takes_what_the_gateway_takes(body: Any, right: bool) -> None:
    schema = {"$ref": "#/components/schemas/InvokeRequest", "components": DOCUMENT["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) is right
    try:
        parse(msgspec.json.encode(body))
    except InvalidRequest:
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
