"""What can go wrong in the edge: one tree, and Cloudflare's own codes in one place."""


class EdgeError(Exception):
    """Base class of the edge's own errors."""


class WorkerdMissing(EdgeError):
    """There is no workerd binary to start."""


class DataDirInUse(EdgeError):
    """Another edge, or a workerd that outlived one, still holds the data directory."""


class WorkerFailedToStart(EdgeError):
    """workerd refused this version; the message is workerd's own, without paths."""


class ScriptGone(EdgeError):
    """No script of this name exists (any more)."""


class ApiError(EdgeError):
    """An answer of the Cloudflare API other than success: HTTP status, code, message."""

    def __init__(
        self, status: int, code: int, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


def malformed_authorization() -> ApiError:
    return ApiError(400, 6003, "Invalid request headers")


def authentication_failed() -> ApiError:
    return ApiError(401, 10000, "Authentication error")


def not_your_account() -> ApiError:
    return ApiError(403, 10000, "Authentication error")


def rate_limited(retry_after: int) -> ApiError:
    return ApiError(
        429,
        971,
        "Please wait and consider throttling your request speed",
        retry_after=retry_after,
    )


def no_route(path: str) -> ApiError:
    message = f"Could not route to {path}, perhaps your object identifier is invalid?"
    return ApiError(404, 7003, message)


def method_not_available(method: str) -> ApiError:
    return ApiError(405, 7001, f"Method {method} not available for that URI.")


def script_not_found() -> ApiError:
    return ApiError(404, 10007, "This Worker does not exist on your account.")


def service_not_found() -> ApiError:
    return ApiError(404, 10090, "This service does not exist on your account.")


def version_not_found() -> ApiError:
    return ApiError(404, 10092, "This version does not exist.")


def namespace_not_found() -> ApiError:
    return ApiError(404, 100119, "This dispatch namespace does not exist on your account.")


def script_refused(message: str) -> ApiError:
    return ApiError(400, 10021, message)


def script_too_large(message: str) -> ApiError:
    return ApiError(413, 10027, message)


def binding_not_found(name: str) -> ApiError:
    return ApiError(404, 10056, f"Binding '{name}' not found.")


def bad_request(message: str, code: int = 10001) -> ApiError:
    return ApiError(400, code, message)
