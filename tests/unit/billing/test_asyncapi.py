"""The AsyncAPI document that is kept is the one that the broker describes."""

from pathlib import Path

from webhost_billing.asyncapi import document

KEPT = Path(__file__).parents[3] / "docs" / "asyncapi" / "billing.json"


def test_the_document_is_up_to_date() -> None:
    assert document() + "\n" == KEPT.read_text()
