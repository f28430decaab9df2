"""telemetry-ingest's environment."""

from pydantic import PositiveInt, SecretStr, model_validator
from webhost_kit.http.settings import ClientAddressSettings
from webhost_kit.keys import MasterKeys
from webhost_kit.process.keys_watch import PlatformKeySettings
from webhost_kit.process.settings import Address, TierSettings


class Settings(TierSettings, ClientAddressSettings, PlatformKeySettings):
    """Variables are the fields' names in upper case."""

    listen: Address
    """The address on which the service listens."""
    telemetry_master_keys: SecretStr
    """`<version>:<base64url>,…`, 32 bytes each; deployments' telemetry keys derive from them."""
    telemetry_failures_per_minute: PositiveInt = 300
    """How often an address (of IPv6: a /64 network) may send missing or wrong credentials, or
    begin a report without completing it, per minute; for a deployment that is known, each address
    has this many in its name."""

    @property
    def master_keys(self) -> MasterKeys:
        """The keys that deployments' telemetry keys are derived from."""
        return MasterKeys.parse(self.telemetry_master_keys.get_secret_value())

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        _ = self.master_keys
        return self
