"""Every object against the schema of its kind, strictly: a field that the kind lacks is a mistake.

Kubernetes' own kinds: the schemas in `kubernetes-validate`. Custom kinds: those of their operators'
releases, in `schemas/` (each says of which, and whence). Rules in CEL are left to the server.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from deploy.rendering import Object, name_of

KUBERNETES = "1.37.0"
"""The version whose schemas are used."""
CUSTOM = Path(__file__).parent / "schemas"

_DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

Schema = dict[str, Any]


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield what does not follow its schema, or has none."""
    for found in objects:
        try:
            validator = _validator(found["apiVersion"], found["kind"])
        except FileNotFoundError:
            yield f"{name_of(found)}: no schema for {found['apiVersion']}"
            continue
        for error in validator.iter_errors(found):
            where = ".".join(str(part) for part in error.absolute_path) or "the object"
            yield f"{name_of(found)}: {where}: {error.message[:200]}"


@cache
def _validator(api_version: str, kind: str) -> Draft202012Validator:
    group, _, version = api_version.rpartition("/")
    custom = CUSTOM / f"{kind.lower()}.{group}.{version}.json"
    if custom.exists():
        schema = closed(json.loads(custom.read_text()))
        schema["properties"]["metadata"] = {"$ref": f"{_DEFINITIONS}#/$defs/{_METADATA}"}
    else:
        schema = _own(f"{kind.lower()}-{re.sub(r'[.][^/]*/|/', '-', api_version)}.json")
    return Draft202012Validator(schema, registry=_definitions())


@cache
def _definitions() -> Registry[Any]:
    definitions: Resource[Any] = Resource.from_contents(_own("_definitions.json"))
    empty: Registry[Any] = Registry()
    return empty.with_resource(_DEFINITIONS, definitions)


def _own(name: str) -> Schema:
    folder = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    return json.loads(files("kubernetes_validate").joinpath(folder, name).read_text())


def closed(schema: Any) -> Any:
    """Return an OpenAPI schema by which objects have no other fields than it names."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return schema
    found: Schema = {str(key): closed(value) for key, value in schema.items()}  # pyright: ignore
    names_fields = isinstance(found.get("properties"), dict) and found.get("type") == "object"
    if names_fields and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found
