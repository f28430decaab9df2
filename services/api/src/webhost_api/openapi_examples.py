"""An example for every request and response of the document that has none of its own.

Each is made from the schema: its own example, constant, default or first choice; else what the name
of the property stands for; else the simplest value of the type.
"""

from collections.abc import Mapping
from typing import Any, cast

Json = dict[str, Any]

_SUFFIX = "01kbbkbng8emasa58n2maha58n"
_CODE = "export default { async invoke() { return 'Hello'; } };"
_BY_NAME: Json = {
    "userId": "usr_0x6wshn6yp985kmv15emf6e21m",
    "deployedByUserId": "usr_0x6wshn6yp985kmv15emf6e21m",
    "agentId": f"agt_{_SUFFIX}",
    "deploymentId": f"dep_{_SUFFIX}",
    "activeDeploymentId": f"dep_{_SUFFIX}",
    "invocationId": f"inv_{_SUFFIX}",
    "keyId": f"key_{_SUFFIX}",
    "uploadId": f"upl_{_SUFFIX}",
    "eventId": f"evt_{_SUFFIX}",
    "requestId": "req_8c1f0de5a4b79c3d2e10f6a7",
    "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
    "sessionId": f"ses_{_SUFFIX}",
    "checkoutUrl": "https://example.lemonsqueezy.com/checkout/custom/5e8b546c-c561-4a2c-a586",
    "cursor": "YWd0XzAxa2Jia2JuZzhlbWFzYTU4bjJtYWhhNThu",
    "nextCursor": None,
    "name": "support",
    "description": "Answers questions about orders.",
    "subject": "user_2abc",
    "email": "kim@example.com",
    "tier": "pro",
    "status": "active",
    "protocol": "invoke/v1",
    "runtimeProvider": "cloudflare",
    "preferredRuntimeProvider": "cloudflare",
    "envVarKeys": ["OPENAI_API_KEY"],
    "requiredKeys": ["OPENAI_API_KEY"],
    "optionalKeys": [],
    "moduleCode": _CODE,
    "content": _CODE,
    "mainModuleName": "index.mjs",
    "invokePath": "/invoke",
    "invokeUrl": f"https://agents.example.com/dep/dep_{_SUFFIX}/invoke",
    "workerName": f"whs-{_SUFFIX}-{_SUFFIX}",
    "compatibilityDate": "2026-01-01",
    "commitHash": "8bfb3c5",
    "type": "modules",
    "checksum": f"sha256:{'0' * 64}",
    "sizeBytes": 2048,
    "periodKey": "2026-11",
    "period": "2026-11",
    "idempotency-key": "deploy-8bfb3c5",
    "source": "both",
    "level": "error",
    "reason": "The new version answers too slowly.",
    "message": "Field required",
    "costUsdEstimated": 0.0004,
    "agentName": "support",
    "provider": {"model": "gpt-5"},
    "errorClass": "runtime",
}
_ID_OF = {
    "UserSchema": "usr",
    "AgentSchema": "agt",
    "DeploymentSchema": "dep",
    "UploadSchema": "upl",
}
"""The prefix of `id` in these; elsewhere it is an event's."""
_TIMES = ("AtMs", "timestampMs", "sinceMs", "fromMs", "toMs")
_TIME_MS = 1764547200000
_MOST_DEPTH = 12


def add_examples(document: Json) -> None:
    """Give every body and parameter of the document an example, unless it has one."""
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if not _has_example(parameter):
                    parameter["example"] = example_of(
                        parameter["schema"], schemas, parameter["name"]
                    )
            for holder in (operation.get("requestBody", {}), *operation["responses"].values()):
                for media in holder.get("content", {}).values():
                    if not _has_example(media) and "schema" in media:
                        media["example"] = example_of(media["schema"], schemas)


def example_of(schema: Json, schemas: Json, name: str = "", depth: int = 0, owner: str = "") -> Any:
    """Return a value that this schema describes; `name` is the property's, `owner` its schema's."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if name == "id" and "examples" not in schema:
        return f"{_ID_OF.get(owner, 'evt')}_{_SUFFIX}"
    if "example" in schema:
        return schema["example"]
    if schema.get("examples"):
        return schema["examples"][0]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if name in _BY_NAME:
        return _BY_NAME[name]
    for choice in schema.get("anyOf") or schema.get("oneOf") or ():
        if choice.get("type") != "null":
            return example_of(choice, schemas, name, depth)
    if "allOf" in schema:
        merged: Json = {}
        for part in schema["allOf"]:
            merged |= example_of(part, schemas, name, depth)
        return merged
    return _of_type(schema, schemas, name, depth)


def _of_type(schema: Json, schemas: Json, name: str, depth: int) -> Any:
    match schema.get("type"):
        case "object":
            properties: Mapping[str, Json] = schema.get("properties", {})
            owner = schema.get("title", "")
            found = {
                key: example_of(shape, schemas, key, depth + 1, owner)
                for key, shape in properties.items()
                if depth < _MOST_DEPTH
            }
            extra = schema.get("additionalProperties")
            if not found and isinstance(extra, dict) and extra:
                found = {"cloudflare": example_of(cast(Json, extra), schemas, "", depth + 1)}
            return found
        case "array":
            return [example_of(schema.get("items", {}), schemas, "", depth + 1)]
        case "integer" | "number":
            return _TIME_MS if name.endswith(_TIMES) else max(1, schema.get("minimum", 1))
        case "boolean":
            return schema.get("default", True)
        case "null":
            return None
        case _:
            return "text"


def _has_example(holder: Json) -> bool:
    return "example" in holder or "examples" in holder
