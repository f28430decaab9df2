"""The facts. Each is past tense, versioned, and stated by the one service that owns its kind.

| kind       | owner            | stream |
|------------|------------------|--------|
| user       | api              | EVENTS |
| agent      | api              | EVENTS |
| key        | api              | EVENTS |
| deployment | deployer         | EVENTS |
| teardown   | deployer         | EVENTS |
| secret     | deployer         | EVENTS |
| account    | billing          | EVENTS |
| period     | billing          | EVENTS |
| delegation | gateway          | EVENTS |
| invocation | gateway          | USAGE  |
| telemetry  | telemetry-ingest | USAGE  |

A contract changes by adding fields with defaults, or by a new version with an upcaster. The
golden examples of every version must decode.
"""

from webhost_contracts.events.account import (
    AccountDisabled,
    AccountEnabled,
    CheckoutStarted,
    SubscriptionChanged,
    TierChanged,
    WebhookProcessed,
)
from webhost_contracts.events.agent import (
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    AgentEnabled,
    AgentUpdated,
    DeploymentActivated,
    DeploymentEnded,
    DeploymentRequested,
    DeploymentRetired,
)
from webhost_contracts.events.base import Envelope, Event
from webhost_contracts.events.delegation import DelegationRefused
from webhost_contracts.events.deployment import (
    DeploymentFailed,
    DeploymentFrontUpdated,
    DeploymentScriptLost,
    DeploymentSecretsApplied,
    DeploymentStarted,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTeardownScheduled,
    DeploymentTelemetryKeyRevoked,
    DeploymentTornDown,
)
from webhost_contracts.events.invocation import InvocationFinished
from webhost_contracts.events.key import KeyCreated, KeyRevoked, KeyRotated
from webhost_contracts.events.period import PeriodSealed, PeriodThresholdReached
from webhost_contracts.events.secret import SecretDeleted, SecretSet
from webhost_contracts.events.teardown import TeardownFinished, TeardownStarted
from webhost_contracts.events.telemetry import ReportRejected, TelemetryAccepted
from webhost_contracts.events.user import UserRegistered

EVENT_TYPES: tuple[type[Event], ...] = (
    UserRegistered,
    AgentCreated,
    AgentUpdated,
    AgentDisabled,
    AgentEnabled,
    AgentDeleted,
    DeploymentRequested,
    DeploymentEnded,
    DeploymentActivated,
    DeploymentRetired,
    KeyCreated,
    KeyRotated,
    KeyRevoked,
    DeploymentStarted,
    DeploymentStepSucceeded,
    DeploymentStepFailed,
    DeploymentSucceeded,
    DeploymentSecretsApplied,
    DeploymentFrontUpdated,
    DeploymentTelemetryKeyRevoked,
    DeploymentScriptLost,
    DeploymentFailed,
    DeploymentTeardownScheduled,
    DeploymentTornDown,
    TeardownStarted,
    TeardownFinished,
    SecretSet,
    SecretDeleted,
    TierChanged,
    AccountDisabled,
    AccountEnabled,
    CheckoutStarted,
    WebhookProcessed,
    SubscriptionChanged,
    PeriodSealed,
    PeriodThresholdReached,
    DelegationRefused,
    ReportRejected,
    InvocationFinished,
    TelemetryAccepted,
)

__all__ = [
    "EVENT_TYPES",
    "AccountDisabled",
    "AccountEnabled",
    "AgentCreated",
    "AgentDeleted",
    "AgentDisabled",
    "AgentEnabled",
    "AgentUpdated",
    "CheckoutStarted",
    "DelegationRefused",
    "DeploymentActivated",
    "DeploymentEnded",
    "DeploymentFailed",
    "DeploymentFrontUpdated",
    "DeploymentRequested",
    "DeploymentRetired",
    "DeploymentScriptLost",
    "DeploymentSecretsApplied",
    "DeploymentStarted",
    "DeploymentStepFailed",
    "DeploymentStepSucceeded",
    "DeploymentSucceeded",
    "DeploymentTeardownScheduled",
    "DeploymentTelemetryKeyRevoked",
    "DeploymentTornDown",
    "Envelope",
    "Event",
    "InvocationFinished",
    "KeyCreated",
    "KeyRevoked",
    "KeyRotated",
    "PeriodSealed",
    "PeriodThresholdReached",
    "ReportRejected",
    "SecretDeleted",
    "SecretSet",
    "SubscriptionChanged",
    "TeardownFinished",
    "TeardownStarted",
    "TelemetryAccepted",
    "TierChanged",
    "UserRegistered",
    "WebhookProcessed",
]
