"""telemetry-ingest's environment."""

from pydantic import SecretStr, model_validator
from webhost_kit.keys import MasterKeys
from webhost_kit.process.settings import Address, ServiceSettings


class Settings(ServiceSettings):
    """Variables are the fields' names in upper case."""

    listen: Address
    """The address on which the service listens."""
    telemetry_master_keys: SecretStr
    """`<version>:<base64url>,…`, 32 bytes each; deployments' telemetry keys derive from them."""

    @property
    def master_keys(self) -> MasterKeys:
        """The keys that deployments' telemetry keys are derived from."""
        return MasterKeys.parse(self.telemetry_master_keys.get_secret_value())

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        _ = self.master_keys
        return self
