"""All that a service may send to another account on the bus, or is sent by one."""

import pytest
from webhost_local.nats_accounts import SERVICES, accounts


def reading(stream: str) -> set[str]:
    return {
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
    }


READING_ARTIFACTS = {
    *reading("OBJ_ARTIFACTS"),
    "$JS.API.STREAM.NAMES",
    "$JS.FC.OBJ_ARTIFACTS.>",
}
IMPORTS = {
    "api": {
        "EVENTS": {
            *("$JS.API.INFO", "$JS.API.STREAM.CREATE.EVENTS", *reading("EVENTS")),
            *("evt.*.user.>", "evt.*.agent.>", "evt.*.key.>"),
        },
        "COMMANDS": {"$JS.API.STREAM.INFO.COMMANDS", "cmd.deployer.>"},
        "USAGE": reading("USAGE"),
        "OBJ_ARTIFACTS": {
            *("$JS.API.STREAM.CREATE.OBJ_ARTIFACTS", "$JS.API.STREAM.PURGE.OBJ_ARTIFACTS"),
            *(*READING_ARTIFACTS, "_INBOX.api.>", "$O.ARTIFACTS.>"),
        },
        "billing": {"rpc.billing.usage", "rpc.billing.recent-events"},
        "deployer": {
            *("rpc.deployer.secrets", "rpc.deployer.set-secrets", "rpc.deployer.delete-secrets"),
        },
    },
    "deployer": {
        "EVENTS": {
            *("$JS.API.INFO", *reading("EVENTS")),
            *("evt.*.deployment.>", "evt.*.secret.>"),
        },
        "COMMANDS": {
            *("$JS.API.STREAM.CREATE.COMMANDS", *reading("COMMANDS")),
            *("$JS.API.CONSUMER.DURABLE.CREATE.COMMANDS.>", "$JS.ACK.COMMANDS.>"),
        },
        "DEADLETTERS": {
            *("$JS.API.STREAM.CREATE.DEADLETTERS", "$JS.API.STREAM.INFO.DEADLETTERS"),
            "dead.cmd.deployer.>",
        },
        "OBJ_ARTIFACTS": {*READING_ARTIFACTS, "_INBOX.deployer.>"},
    },
    "gateway": {
        "EVENTS": {"$JS.API.INFO", *reading("EVENTS"), "evt.*.delegation.>"},
        "USAGE": {"$JS.API.STREAM.INFO.USAGE", "usage.*.gateway"},
        "KV_TOTALS": reading("KV_TOTALS"),
    },
    "telemetry-ingest": {
        "EVENTS": {"$JS.API.INFO", *reading("EVENTS"), "evt.*.report.>"},
        "USAGE": {"$JS.API.STREAM.INFO.USAGE", "usage.*.telemetry-ingest"},
    },
    "billing": {
        "EVENTS": {"$JS.API.INFO", *reading("EVENTS"), "evt.*.account.>", "evt.*.period.>"},
        "USAGE": {"$JS.API.STREAM.CREATE.USAGE", *reading("USAGE")},
        "KV_TOTALS": {
            *("$JS.API.STREAM.INFO.KV_TOTALS", "$JS.API.STREAM.CREATE.KV_TOTALS"),
            "$KV.TOTALS.>",
        },
    },
}


@pytest.mark.accept("6.D1")
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_this_and_nothing_else(service: str) -> None:
    imports: dict[str, set[str]] = {}
    for each in accounts({})[service].imports:
        imports.setdefault(each.account, set()).add(each.subject)
    assert imports == IMPORTS[service]


@pytest.mark.accept("6.D1")
def test_nothing_is_exported_but_to_whoever_imports_it() -> None:
    declared = accounts({})
    exported = {
        (owner, export.kind, export.subject, to)
        for owner, account in declared.items()
        for export in account.exports
        for to in export.to
    }
    imported = {
        (each.account, each.kind, each.subject, name)
        for name, account in declared.items()
        for each in account.imports
    }
    assert exported == imported
    assert all(export.to for account in declared.values() for export in account.exports)
