"""The operations of the document, for tests that are generated from it."""

import json
from dataclasses import dataclass
from typing import Any

from webhost_api.openapi import document

DOCUMENT: dict[str, Any] = json.loads(document())
STREAM = "text/event-stream"


@dataclass(frozen=True)
class Operation:
    """One operation of the document, with the examples that it has."""

    method: str
    path: str
    described: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def takes_a_token(self) -> bool:
        """Whether users call it; the others are for Workers, orchestrators and the like."""
        return any("Bearer" in name for scheme in self.described["security"] for name in scheme)

    @property
    def streams(self) -> bool:
        """Whether it answers with server-sent events."""
        return STREAM in self.described["responses"].get("200", {}).get("content", ())

    @property
    def names(self) -> list[str]:
        """The ids in its path."""
        parameters = self.described.get("parameters", ())
        return [it["name"] for it in parameters if it["in"] == "path"]

    @property
    def takes_nothing_else(self) -> bool:
        """Whether ids in its path are all that it takes."""
        parameters = self.described.get("parameters", ())
        return self.body is None and all(it["in"] == "path" for it in parameters)

    @property
    def body(self) -> tuple[str, Any] | None:
        """The content type and the example of its body, None where it takes none."""
        for content_type, media in self.described.get("requestBody", {}).get("content", {}).items():
            return content_type, media["example"]
        return None


OPERATIONS = tuple(
    Operation(method.upper(), path, described)
    for path, methods in sorted(DOCUMENT["paths"].items())
    for method, described in methods.items()
)
"""Every operation of all services."""
