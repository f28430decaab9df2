"""The bodies of requests: camelCase JSON.

Unknown fields are refused, and so is a value of another type than the field's.
"""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints
from pydantic.alias_generators import to_camel
from webhost_contracts.api_keys import KeyScope
from webhost_contracts.bindings import RESERVED_NAMES, RESERVED_PREFIX, is_reserved

MAX_ENV_VARS = 50
ENV_VAR_KEY = r"^[A-Z][A-Z0-9_]{0,63}$"
MAX_SECRET_BYTES = 5 * 1024
MAX_MODULE_CHARS = 1024 * 1024
MAX_KEY_AGENTS = 50
MAX_OVERLAP_S = 7 * 24 * 3600
MAX_INTEGER = 2**53 - 1


def _written(**keywords: Any) -> Any:
    """Say in the JSON schema what a validator checks."""
    return Field(json_schema_extra=keywords)


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the character NUL")
    return value


def _no_nuls(value: list[str]) -> list[str]:
    return [_no_nul(each) for each in value]


def _not_reserved(value: str) -> str:
    if is_reserved(value):
        raise ValueError("is a name that the platform reserves")
    return value


def _without_repeats(value: list[str]) -> list[str]:
    if len(set(value)) < len(value):
        raise ValueError("must not name a variable twice")
    return value


def _each_once(value: list[str]) -> list[str]:
    if len(set(value)) < len(value):
        raise ValueError("must not name anything twice")
    return value


def _no_dot_dot(value: str) -> str:
    if ".." in value:
        raise ValueError("must not contain '..'")
    return value


def _not_the_platforms(value: str) -> str:
    if value.startswith("webhost-"):
        raise ValueError("must not begin with 'webhost-'")
    return value


def _not_the_platforms_path(value: str) -> str:
    if value.startswith("/__webhost"):
        raise ValueError("must not begin with '/__webhost'")
    return value


def _a_date(value: str) -> str:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a day, written YYYY-MM-DD") from None
    return value


_WITHOUT_NUL = _written(pattern=r"^[^\x00]*$")


def _storable(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        # From None: the error would hold the value.
        raise ValueError("must be Unicode text") from None
    if size > MAX_SECRET_BYTES:
        raise ValueError(f"must be at most {MAX_SECRET_BYTES} bytes in UTF-8")
    return value


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=80),
    AfterValidator(_no_nul),
    _written(pattern=r"^[^\x00]*[^\s\x00-\x1f\x7f-\xa0][^\x00]*$"),
]
Description = Annotated[
    str, StringConstraints(max_length=4000), AfterValidator(_no_nul), _WITHOUT_NUL
]
EnvVarKey = Annotated[
    str,
    StringConstraints(pattern=ENV_VAR_KEY),
    AfterValidator(_not_reserved),
    _written(
        pattern=rf"^(?!({'|'.join(sorted(RESERVED_NAMES))})$)(?!{RESERVED_PREFIX})[A-Z][A-Z0-9_]{{0,63}}$"
    ),
]
EnvVarKeys = Annotated[
    list[EnvVarKey],
    Field(max_length=MAX_ENV_VARS),
    AfterValidator(_without_repeats),
    _written(uniqueItems=True),
]
Provider = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32),
    AfterValidator(_no_nul),
    _written(enum=["cloudflare"]),
]
SecretValue = Annotated[
    SecretStr,
    Field(min_length=1, max_length=MAX_SECRET_BYTES),
    AfterValidator(_storable),
    _WITHOUT_NUL,
]
ModuleName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}\.(js|mjs)$"),
    AfterValidator(_no_dot_dot),
    AfterValidator(_not_the_platforms),
    _written(
        pattern=r"^(?!webhost-)(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}\.(js|mjs)$",
        example="index.mjs",
    ),
]
InvokePath = Annotated[
    str,
    StringConstraints(pattern=r"^/[A-Za-z0-9_./~-]{0,127}$"),
    AfterValidator(_not_the_platforms_path),
    _written(pattern=r"^(?!/__webhost)/[A-Za-z0-9_./~-]{0,127}$", example="/invoke"),
]
CompatibilityDate = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
    AfterValidator(_a_date),
    _written(format="date"),
]


class _Request(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True, frozen=True)


class _DescribeAgent(_Request):
    description: Description | None = None
    env_var_keys: EnvVarKeys | None = None
    preferred_runtime_provider: Provider | None = None


class CreateAgentBody(_DescribeAgent):
    """A new agent."""

    name: Name


class UpdateAgentBody(_DescribeAgent):
    """What to change; a field that is absent or null stays, an empty description is cleared."""

    name: Name | None = None


class DeployBody(_Request):
    """What to deploy: this module or this upload, or without either the built-in template.

    The main module of an upload is by default its manifest's entrypoint.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["moduleCode", "uploadId"],
                "properties": {"moduleCode": {"type": "string"}, "uploadId": {"type": "string"}},
            },
            "example": {
                "moduleCode": "export default { async invoke() { return 'Hello'; } };",
                "commitHash": "8bfb3c5",
            },
        }
    )
    module_code: (
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODULE_CHARS)] | None
    ) = None
    upload_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    main_module_name: ModuleName | None = None
    compatibility_date: CompatibilityDate | None = None
    invoke_path: InvokePath | None = None
    runtime_provider: Provider | None = None
    commit_hash: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,100}$")] | None = None
    set_as_active: bool | None = None


class ActivateBody(_Request):
    """Why the pointer is set by hand."""

    reason: (
        Annotated[str, StringConstraints(max_length=500), AfterValidator(_no_nul), _WITHOUT_NUL]
        | None
    ) = None


class KeyLimitsBody(_Request):
    """How many requests the key may make in each day or calendar month, in UTC."""

    requests: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    period: Literal["day", "month"]


class CreateKeyBody(_Request):
    """A new API key; without `agentIds` it is for all agents, without `expiresAtMs` for ever."""

    name: Name
    scopes: Annotated[
        list[KeyScope],
        Field(min_length=1),
        AfterValidator(_each_once),
        _written(uniqueItems=True),
    ]
    agent_ids: (
        Annotated[
            list[Annotated[str, StringConstraints(max_length=64), _WITHOUT_NUL]],
            Field(min_length=1, max_length=MAX_KEY_AGENTS),
            AfterValidator(_no_nuls),
            AfterValidator(_each_once),
            _written(uniqueItems=True),
        ]
        | None
    ) = None
    expires_at_ms: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    limits: KeyLimitsBody | None = None


class RotateKeyBody(_Request):
    """How many seconds the secret of until now is still accepted; a day if absent."""

    overlap_seconds: Annotated[int, Field(ge=0, le=MAX_OVERLAP_S)] | None = None


class CheckoutBody(_Request):
    """Which tier is to be bought."""

    tier: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class SetSecretsBody(_Request):
    """Values by name; each name is one of the agent's `envVarKeys`."""

    secrets: Annotated[
        dict[EnvVarKey, SecretValue],
        Field(
            min_length=1, max_length=MAX_ENV_VARS, examples=[{"OPENAI_API_KEY": "the key's value"}]
        ),
    ]
