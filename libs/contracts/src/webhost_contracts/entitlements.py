"""What a tier allows: a file that the operator owns, validated when a service starts.

`null` means unlimited. The file of the product's own tiers is beside this module.
"""

import tomllib
from collections.abc import Collection
from importlib import resources
from pathlib import Path

import msgspec

DEFAULT_TIER = "free"


class Entitlements(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """The limits of one tier. Times in days, compute in milliseconds, rates per minute.

    `agents` counts those that are there, `agents_created` all that ever were. A change is a fact
    about a user's agents; as many idempotency keys are kept as changes are allowed.
    `cpu_ms` and `subrequests` are what an agent's own code may use in one call.
    """

    requests: int | None = None
    tokens: int | None = None
    compute_ms: int | None = None
    agents: int | None = None
    agents_created: int | None = None
    deploys_per_hour: int | None = None
    deploys_per_day: int | None = None
    changes_per_day: int | None = None
    concurrency: int | None = None
    cpu_ms: int | None = None
    subrequests: int | None = None
    requests_per_minute: int
    agentcore_enabled: bool = False
    telemetry_days: int
    log_days: int


def known_tier(tiers: Collection[str], name: str | None) -> str:
    """Return the tier's name; none, or one that the file lacks, counts as the default one."""
    return name if name is not None and name in tiers else DEFAULT_TIER


class TiersError(ValueError):
    """The tiers file cannot be used; the message says where and why."""


def load_tiers(path: Path | None = None) -> dict[str, Entitlements]:
    """Return the tiers by name from this file, or the product's own.

    Raises TiersError where the file is missing, is not TOML, has an unknown or missing field,
    or lacks the tier `free`.
    """
    where = f"tiers file {path or '(built in)'}"
    file = path or resources.files("webhost_contracts").joinpath("tiers.toml")
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TiersError(f"{where}: {error}") from error
    if DEFAULT_TIER not in tables:
        raise TiersError(f"{where}: tier '{DEFAULT_TIER}' is missing")
    return {name: _entitlements(f"{where}: [{name}]", table) for name, table in tables.items()}


def _entitlements(where: str, table: object) -> Entitlements:
    try:
        return msgspec.convert(table, Entitlements)
    except msgspec.ValidationError as error:
        raise TiersError(f"{where}: {error}") from error
