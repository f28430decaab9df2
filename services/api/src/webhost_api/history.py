"""What users see of facts: whom each concerns, what the audit calls it, which of its fields are
safe. Pure.

A field that is not named in SHOWN is never stored or shown, and a type that is not there neither.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
from webhost_contracts import ids
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    AgentEnabled,
    AgentUpdated,
    CheckoutStarted,
    DelegationRefused,
    DeploymentActivated,
    DeploymentEnded,
    DeploymentFailed,
    DeploymentFrontUpdated,
    DeploymentRequested,
    DeploymentRetired,
    DeploymentScriptLost,
    DeploymentSecretsApplied,
    DeploymentStarted,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTeardownScheduled,
    DeploymentTelemetryKeyRevoked,
    DeploymentTornDown,
    Envelope,
    Event,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    PeriodThresholdReached,
    ReportRejected,
    SecretDeleted,
    SecretSet,
    SubscriptionChanged,
    TeardownFinished,
    TeardownStarted,
    TierChanged,
    WebhookProcessed,
)
from webhost_kit.process import trace_context
from webhost_kit.process.observability import redact

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Shown:
    """A type's audit action, if it is audited, and the fields (of the JSON) that are shown.

    `aggregate` is what the aggregate's id is shown as, where that is neither agent nor deployment.
    """

    action: str | None
    fields: tuple[str, ...] = ()
    aggregate: str | None = None


_DESCRIBED = ("name", "envVarKeys", "preferredRuntimeProvider")
_STEP = ("step", "attempt", "startedAtMs")

SHOWN: dict[type[Event], Shown] = {
    AgentCreated: Shown("agent.created", _DESCRIBED),
    AgentUpdated: Shown("agent.updated", _DESCRIBED),
    AgentDisabled: Shown("agent.disabled"),
    AgentEnabled: Shown("agent.enabled"),
    AgentDeleted: Shown("agent.deleted"),
    DeploymentRequested: Shown(
        "deployment.requested",
        ("deploymentVersion", "runtimeProvider", "setAsActive", "commitHash"),
    ),
    DeploymentEnded: Shown(None, ("outcome", "error")),
    DeploymentActivated: Shown("deployment.activated", ("cause", "previousDeploymentId", "reason")),
    DeploymentRetired: Shown("deployment.retired"),
    DeploymentStarted: Shown(None, ("deploymentVersion", "runtimeProvider")),
    DeploymentStepSucceeded: Shown(None, _STEP),
    DeploymentStepFailed: Shown(None, (*_STEP, "error", "retryAtMs")),
    DeploymentSucceeded: Shown("deployment.succeeded", ("workerName", "invokeUrl")),
    DeploymentFailed: Shown("deployment.failed", ("error",)),
    DeploymentTeardownScheduled: Shown(None, ("notBeforeMs",)),
    DeploymentTornDown: Shown("deployment.torn_down"),
    DeploymentSecretsApplied: Shown(None),
    DeploymentFrontUpdated: Shown(None),
    DeploymentTelemetryKeyRevoked: Shown("deployment.telemetry_key_revoked"),
    DeploymentScriptLost: Shown("deployment.script_lost"),
    SecretSet: Shown("secrets.set", ("keys",)),
    SecretDeleted: Shown("secrets.deleted", ("keys",)),
    TeardownStarted: Shown(None),
    TeardownFinished: Shown("agent.torn_down"),
    TierChanged: Shown("tier.changed", ("tier", "previousTier", "granted")),
    CheckoutStarted: Shown("checkout.started", ("tier",)),
    WebhookProcessed: Shown("webhook.processed", ("eventName", "subscriptionId")),
    SubscriptionChanged: Shown(
        "subscription.changed", ("subscriptionId", "status", "tier", "renewsAtMs", "endsAtMs")
    ),
    AccountDisabled: Shown("account.disabled", ("reason",)),
    AccountEnabled: Shown("account.enabled"),
    PeriodThresholdReached: Shown(
        "usage.threshold_reached", ("periodKey", "limitType", "percent", "limit", "tier")
    ),
    KeyCreated: Shown(
        "key.created", ("name", "scopes", "agentIds", "expiresAtMs", "limits"), "keyId"
    ),
    KeyRotated: Shown("key.rotated", ("previousExpiresAtMs",), "keyId"),
    KeyRevoked: Shown("key.revoked", (), "keyId"),
    DelegationRefused: Shown("delegation.refused", ("source", "code", "reason")),
    ReportRejected: Shown("telemetry.rejected", ("code", "reason")),
}


def row_of(envelope: Envelope, event: Event) -> dict[str, Any]:
    """Return the row of `history` for a fact of a type in SHOWN, without its number."""
    shown = SHOWN[type(event)]
    named = {shown.aggregate: envelope.aggregate_id} if shown.aggregate is not None else {}
    return {
        "event_id": envelope.event_id,
        "user_id": envelope.user_id,
        "agent_id": _id_of("agent_id", ids.AGENT, envelope, event),
        "deployment_id": _id_of("deployment_id", ids.DEPLOYMENT, envelope, event),
        "type": event.type_name(),
        "action": shown.action,
        "at_ms": envelope.occurred_at_ms,
        "version": envelope.version,
        "actor": envelope.actor,
        "request_id": envelope.request_id,
        "trace_id": _trace_id(envelope.traceparent),
        "data": _data(event, shown.fields) | named,
    }


def outcome_of(type_name: str) -> str | None:
    """Return `succeeded` or `failed` where a type says so, whatever of."""
    verb = type_name.split(".")[1]
    return next((end for end in ("succeeded", "failed") if verb.endswith(end)), None)


def is_past(action: str | None, at_ms: int, entitlements: Entitlements, now_ms: int) -> bool:
    """Say whether retention removes this row of a user with these entitlements."""
    return at_ms < (
        logs_since(entitlements, now_ms) if action is None else audit_since(entitlements, now_ms)
    )


def audit_since(entitlements: Entitlements, now_ms: int) -> int:
    """Return since when audit entries are kept. They are also in the logs, and kept as long."""
    return now_ms - max(entitlements.telemetry_days, entitlements.log_days) * DAY_MS


def logs_since(entitlements: Entitlements, now_ms: int) -> int:
    """Return since when deployments' log lines, and agents' events, are kept."""
    return now_ms - entitlements.log_days * DAY_MS


def _id_of(field: str, prefix: str, envelope: Envelope, event: Event) -> str | None:
    if ids.has_prefix(envelope.aggregate_id, prefix):
        return envelope.aggregate_id
    return getattr(event, field, None)


def _trace_id(traceparent: str | None) -> str | None:
    context = trace_context.parse(traceparent)
    return None if context is None else context.trace_id


def _data(event: Event, fields: tuple[str, ...]) -> dict[str, Any]:
    whole = msgspec.to_builtins(event)
    return redact({name: whole[name] for name in fields if whole.get(name) is not None})
