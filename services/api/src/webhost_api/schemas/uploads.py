"""Uploads, and the manifest of a bundle."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from webhost_api.schemas.base import Schema
from webhost_api.schemas.requests import EnvVarKey, EnvVarKeys, ModuleName


class _Manifest(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True, frozen=True)


class ManifestEnv(_Manifest):
    """The variables and secrets that the code reads. A required one must be set at deploy."""

    required_keys: EnvVarKeys = []
    optional_keys: EnvVarKeys = []


class ManifestCapabilities(_Manifest):
    """What the agent says of itself; nothing depends on it yet."""

    streaming: bool = False
    tools: bool = False


def _without_common_keys(env: ManifestEnv) -> ManifestEnv:
    common: set[EnvVarKey] = set(env.required_keys) & set(env.optional_keys)
    if common:
        raise ValueError(f"has keys that are both required and optional: {', '.join(common)}")
    return env


class ManifestSchema(_Manifest):
    """A bundle's `agent.config.json`. The entrypoint is a JavaScript module of the bundle."""

    protocol: Literal["invoke/v1"]
    runtime: Literal["cloudflare"]
    entrypoint: ModuleName
    env: Annotated[ManifestEnv, AfterValidator(_without_common_keys)] = Field(
        default_factory=ManifestEnv
    )
    capabilities: ManifestCapabilities = Field(default_factory=ManifestCapabilities)


class UploadSchema(Schema):
    """A bundle that can be deployed until `expiresAtMs`; what was deployed of it stays.

    `checksum` and `sizeBytes` are those of the artifact that a deployment of it names.
    """

    id: str
    checksum: str
    size_bytes: int
    manifest: ManifestSchema
    expires_at_ms: int


class UploadResponse(Schema):
    """One upload."""

    upload: UploadSchema
