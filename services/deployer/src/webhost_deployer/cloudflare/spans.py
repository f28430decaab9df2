"""The span of a call to Cloudflare's API, or to what runs there."""

import re

from webhost_kit.process import tracing

_NAMED = re.compile(r"(?<=/)(scripts|routes|namespaces|dep)/[^/]+")


def call_span(endpoint: str, host: str) -> tracing.Span:
    """Return the client span of a call, such as `PUT /workers/scripts/x`, to be entered.

    Its name has no names of scripts and routes in it: they are as many as there are deployments.
    """
    method, _, path = endpoint.partition(" ")
    template = _NAMED.sub(r"\1/{id}", path)
    return tracing.span(
        f"{method} {template}",
        "client",
        attributes={
            "http.request.method": method,
            "url.template": template,
            "server.address": host,
        },
    )
