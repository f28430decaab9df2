"""What the accounts on the bus let through; docs/privileges.md lists it, in full."""

import pytest
from webhost_local.installation.bus_accounts import accounts


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
