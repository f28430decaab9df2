"""The keys of a running stack: the test is the operator of this machine, and signs as anybody."""

import hashlib
import hmac
from urllib.parse import urlsplit

from webhost_contracts import signatures
from webhost_kit.keys import MasterKeys, parse_signers
from webhost_local import kept_identities
from webhost_local.data_dir import DataDir
from webhost_local.installation import postgres_roles

from tests.support.stack import Stack

KEY_VERSION = 1
KEY_GENERATION = 1


class StackKeys:
    """Signs what the gateway, the deployer and any deployment's Worker would sign."""

    def __init__(self, stack: Stack) -> None:
        known = kept_identities.load_or_make(DataDir.at(stack.data_dir))
        self._master = MasterKeys.parse(known.telemetry_master_keys)
        self._gateway = parse_signers(known.invoke_private_keys, "the gateway's")[0]
        self._deployer = parse_signers(known.platform_private_keys, "the deployer's")[0]
        self._owners, self._roles = known.postgres_owners, known.postgres_roles
        self._postgres = urlsplit(stack.status()["postgresDsn"])
        self._webhook = known.lemonsqueezy_webhook_secret.encode()

    def report_headers(
        self, deployment_id: str, body: bytes, generation: int = KEY_GENERATION
    ) -> dict[str, str]:
        """The telemetry headers of this deployment's Worker for this body."""
        key = self._master.telemetry_key(KEY_VERSION, deployment_id, generation)
        assert key is not None
        return {
            signatures.TELEMETRY_DEPLOYMENT_HEADER: deployment_id,
            signatures.TELEMETRY_SIGNATURE_HEADER: signatures.telemetry_signature(key, body),
        }

    def invoke_headers(self, at_ms: int, deployment_id: str, body: bytes) -> dict[str, str]:
        """The gateway's signature on a call to this deployment."""
        header = self._gateway.header(at_ms, deployment_id, body)
        return {signatures.INVOKE_SIGNATURE_HEADER: header}

    def webhook_headers(self, body: bytes) -> dict[str, str]:
        """The payment provider's signature on this delivery."""
        return {"X-Signature": hmac.new(self._webhook, body, hashlib.sha256).hexdigest()}

    def databases(self, service: str) -> dict[str, str]:
        """The environment in which this service's schema is migrated."""
        owner = f"{postgres_roles.owner(service)}:{self._owners[service]}"
        role = f"{postgres_roles.role(service)}:{self._roles[service]}"
        place = f"{self._postgres.hostname}:{self._postgres.port}{self._postgres.path}"
        return {
            "MIGRATIONS_DATABASE_URL": f"postgresql://{owner}@{place}",
            "DATABASE_URL": f"postgresql://{role}@{place}",
            "ALLOW_PLAIN_POSTGRES": "true",
        }

    def platform_signature(self, at_ms: int, deployment_id: str, body: bytes) -> str:
        """The deployer's signature, as its probe carries it."""
        return self._deployer.header(at_ms, deployment_id, body)
