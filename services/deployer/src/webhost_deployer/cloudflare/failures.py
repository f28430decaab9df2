"""What a refusal of Cloudflare's API means: whether to try again, and what an operator has to do.

Pure. Whether a call that failed was done all the same is never known, so each may be repeated.
"""

from http import HTTPStatus

from webhost_deployer.provider import ProviderError

DUPLICATE_ROUTE = "10020"
NO_SUCH_SCRIPT = "10007"
SCRIPT_NOT_SEEN_YET = "10019"
SCRIPT_LIMIT = "10037"
TOKEN_REFUSED = frozenset({"6003", "6111", "9103", "9106", "9107", "9109", "10000"})
"""Codes for a token that is malformed, unknown, expired, or may not do what was asked."""

BLOCKED_S = 300
"""How long Cloudflare refuses every call of a token that made too many, and the longest time for
which an answer can put off the next call."""

_TRANSIENT_STATUS = frozenset({403, 408, 409, 425, 429})
"""403 without one of the codes above, or as a page, was seen right after uploads that succeeded."""

ROUTES_PERMISSION = "Workers Routes: Edit on the zone CLOUDFLARE_ZONE_ID"
SCRIPTS_PERMISSION = "Workers Scripts: Edit on the account CLOUDFLARE_ACCOUNT_ID"

FULL = (
    "The Cloudflare account holds as many scripts as it may. The operator has to remove scripts or"
    " raise the account's limit; with CLOUDFLARE_MAX_SCRIPTS, deployments beyond the room that this"
    " installation has are refused before Cloudflare is called."
)
ROUTE_OF_ANOTHER = (
    "A route with this pattern leads to a script that is not this deployment's. It was left as it"
    " is; the operator has to remove it, or to use another CLOUDFLARE_WORKERS_CUSTOM_DOMAIN."
)
NAME_OF_ANOTHER = (
    "A script of this name exists that is not this installation's. It was left as it is; the"
    " operator has to remove it, or to give this installation an account of its own."
)


class Missing(ProviderError):
    """What was called for does not exist."""


def refusal(
    endpoint: str, status: int, code: str | None, message: str | None, *, after_upload: bool = False
) -> ProviderError:
    """Return what an answer that is no success means; `code` and `message` are its first error's.

    `after_upload` says that the same token has just uploaded what the call is about: that it may
    not do this now was seen to pass.
    """
    said = message or f"HTTP {status}"
    if _is_refused_token(status, code):
        permission = ROUTES_PERMISSION if "/workers/routes" in endpoint else SCRIPTS_PERMISSION
        advice = (
            "Cloudflare refused the API token. The operator has to see that CLOUDFLARE_API_TOKEN is"
            f" valid, has not expired, and has the permission {permission}."
        )
        transient = after_upload and status == HTTPStatus.FORBIDDEN
        return ProviderError(
            endpoint, code or str(status), said, transient=transient, advice=advice
        )
    if code == SCRIPT_LIMIT:
        return ProviderError(endpoint, code, said, transient=False, advice=FULL)
    if code == DUPLICATE_ROUTE:
        return ProviderError(endpoint, code, said, transient=False, advice=ROUTE_OF_ANOTHER)
    transient = (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or status in _TRANSIENT_STATUS
        or code in (None, SCRIPT_NOT_SEEN_YET)
    )
    kind = Missing if status == HTTPStatus.NOT_FOUND or code == NO_SUCH_SCRIPT else ProviderError
    return kind(endpoint, code or str(status), said, transient=transient)


def retry_after_s(said: str | None) -> int | None:
    """Return the seconds that a Retry-After header asks for, up to BLOCKED_S; None if it says none.

    Cloudflare sends seconds, never a date; what else a header holds may be anybody's.
    """
    if said is None or not (said.isascii() and said.isdecimal()):
        return None
    return BLOCKED_S if len(said) > len(str(BLOCKED_S)) else min(int(said), BLOCKED_S)


def unreadable(endpoint: str) -> ProviderError:
    """Return what an answer is that says it is a success, and has not the form of one."""
    return ProviderError(endpoint, None, "Unreadable answer.", transient=True)


def name_taken(script: str) -> ProviderError:
    """Return why nothing is uploaded over a script that is not this installation's."""
    message = f"The name {script} is taken."
    return ProviderError(
        f"PUT /workers/scripts/{script}", None, message, transient=False, advice=NAME_OF_ANOTHER
    )


def route_gone(endpoint: str) -> ProviderError:
    """Return what it means that a route was in the way which is not there any more."""
    return ProviderError(endpoint, DUPLICATE_ROUTE, "Another route was there.", transient=True)


def _is_refused_token(status: int, code: str | None) -> bool:
    if status == HTTPStatus.UNAUTHORIZED:
        return True
    return code in TOKEN_REFUSED and status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)
