"""invoke/v1: what a caller sends, what a Worker gets, and what comes back."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from webhost_contracts.entitlements import Entitlements

PROTOCOL = "invoke/v1"
MAX_MESSAGES = 256
MAX_ANSWER_BYTES = 4 * 1024 * 1024
TRACE_ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,128}$"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either a prompt or messages, never both."""

    messages: Annotated[tuple[Message, ...], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = (
        None
    )
    prompt: str | None = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Hints for the agent's own loop."""

    max_steps: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """For correlation only."""

    trace_id: str | None = None
    client: Any = None


class InvokeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of an invocation as the caller sends it."""

    input: Input
    protocol: Literal["invoke/v1"] | None = None
    session_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    options: Options | None = None
    metadata: Metadata | None = None
    trace_id: str | None = None


class WorkerInput(msgspec.Struct, frozen=True):
    """The messages; a prompt has already been turned into one user message."""

    messages: tuple[Message, ...]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the customer's code may use in one call; names as the runtime takes them."""

    cpu_ms: int | None = msgspec.field(default=None, name="cpuMs")
    subrequests: int | None = msgspec.field(default=None, name="subRequests")

    @classmethod
    def of(cls, tier: Entitlements) -> "Limits | None":
        """Return the tier's limits; None where it has none."""
        if tier.cpu_ms is None and tier.subrequests is None:
            return None
        return cls(tier.cpu_ms, tier.subrequests)


class NamedDeployment(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """Whose the deployment is, for a front that serves all of an installation."""

    user_id: str
    agent_id: str
    key_version: int
    key_generation: int
    limits: Limits | None = None


class WorkerRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The normalized request that the gateway signs and a Worker gets."""

    protocol: str
    invocation_id: str
    trace_id: str
    admitted_at_ms: int
    timeout_ms: int
    deployment: NamedDeployment
    input: WorkerInput
    session_id: str | None = None
    options: Options | None = None
    metadata: Metadata | None = None


Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class Usage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a call used, as its Worker reports it."""

    tokens: Count | None = None
    compute_ms: Count | None = None
    tool_calls: Count | None = None


class Output(msgspec.Struct, frozen=True):
    """The agent's answer."""

    text: str


class InvokeResponse(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The body of a successful invocation."""

    protocol: Literal["invoke/v1"]
    trace_id: str
    session_id: str
    output: Output
    usage: Usage = Usage()
