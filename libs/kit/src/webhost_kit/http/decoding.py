"""A JSON body as a value, or an error that says where it is wrong and repeats nothing of it."""

import re
from typing import TypeVar

import msgspec

from webhost_kit.errors import InvalidRequest
from webhost_kit.http.problems import without_value

_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_FIELD = re.compile(r"(?:unknown|required) field `(?P<name>[^`]*)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")

T = TypeVar("T")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return what the body says. Raises InvalidRequest, with the field at fault."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _issue(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest.at([], "The body must be a JSON object.") from error
    except RecursionError as error:
        raise InvalidRequest.at([], "The body is nested too deeply.") from error


def _issue(message: str) -> InvalidRequest:
    path: list[str | int] = []
    if (found := _PATH.search(message)) is not None:
        message = without_value(message[: found.start()])
        for name, index in _STEP.findall(found["path"]):
            path.append(int(index) if index else name)
    if (field := _FIELD.search(message)) is not None:
        path.append(field["name"])
    return InvalidRequest.at(path, message)
