"""`webhost billing tiers`, `checkout`, `subscription`; for operators `reconcile` and `assign`."""

import getpass
from typing import Annotated

import typer
from webhost_contracts import subjects
from webhost_contracts.billing_rpc import (
    AssignSubscriptionReply,
    AssignSubscriptionRequest,
    ReconcileSubscriptionsReply,
    ReconcileSubscriptionsRequest,
)

from webhost_cli import bus, output
from webhost_cli.client import Api
from webhost_cli.connection import with_api
from webhost_cli.errors import CommandError
from webhost_cli.options import BusOption, JsonOption

_RECONCILE_TIMEOUT_S = 600.0
"""The provider may be asked 300 times a minute, a hundred subscriptions each."""
_ASSIGN_TIMEOUT_S = 60.0
_RENEWING = ("on_trial", "active", "past_due")


def add_to(group: typer.Typer) -> None:
    group.command()(with_api(tiers))
    group.command()(with_api(checkout))
    group.command()(with_api(subscription))
    group.command()(reconcile)
    group.command()(assign)


def tiers(api: Api, as_json: JsonOption = False) -> None:
    """Show the tiers, and what each allows in a period."""
    answer = api.get("/v1/billing/tiers")
    if as_json:
        output.print_json(answer)
        return
    rows = [
        (tier["name"], *(_limit(tier["entitlements"][name]) for name in _LIMITS))
        for tier in answer["tiers"]
    ]
    columns = ("tier", "requests", "tokens", "compute ms")
    output.print_table(columns, rows, numbers=columns[1:])


def checkout(
    api: Api,
    tier: Annotated[str, typer.Argument(help="The tier to buy, such as pro.")],
    as_json: JsonOption = False,
) -> None:
    """Print the address of a page on which to buy a tier; it is good for a day."""
    answer = api.post("/v1/billing/checkout", {"tier": tier})
    if as_json:
        output.print_json(answer)
    else:
        output.say(answer["checkoutUrl"])


def subscription(api: Api, as_json: JsonOption = False) -> None:
    """Show your subscription."""
    answer = api.get("/v1/billing/subscription")
    found = answer["subscription"]
    if as_json:
        output.print_json(answer)
    elif found is None:
        output.say("no subscription")
    else:
        given = found.get("tier") or "no tier of this installation"
        renews = found["status"] in _RENEWING
        output.print_fields(
            (
                ("id", found["id"]),
                ("status", found["status"]),
                ("tier", given if found["active"] else f"{given}, not in force"),
                ("renews", output.when(found.get("renewsAtMs")) if renews else None),
                ("ends", output.when(found.get("endsAtMs"))),
            )
        )


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, and change nothing.")] = False,
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Operators: read subscriptions back from LemonSqueezy, for what no delivery brought."""
    request = ReconcileSubscriptionsRequest(operator=getpass.getuser(), dry_run=dry_run)
    reply = bus.request(
        data_dir,
        subjects.RPC_RECONCILE_SUBSCRIPTIONS,
        request,
        ReconcileSubscriptionsReply,
        timeout_s=_RECONCILE_TIMEOUT_S,
        reads=dry_run,
    )
    if reply.refused is not None:
        raise CommandError(f"refused: {reply.refused}")
    if as_json:
        output.print_json(reply)
    else:
        _show(reply)


def assign(
    subscription_id: Annotated[str, typer.Argument(help="As `reconcile` lists it.")],
    user: Annotated[str, typer.Argument(metavar="USER_ID", help="Whose it is.")],
    data_dir: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Operators: say whose a subscription is that no delivery has named a user for."""
    request = AssignSubscriptionRequest(
        subscription_id=subscription_id, user_id=user, operator=getpass.getuser()
    )
    reply = bus.request(
        data_dir,
        subjects.RPC_ASSIGN_SUBSCRIPTION,
        request,
        AssignSubscriptionReply,
        timeout_s=_ASSIGN_TIMEOUT_S,
    )
    if reply.refused is not None:
        raise CommandError(f"refused: {reply.refused}")
    if as_json:
        output.print_json(reply)
    else:
        output.say(f"{subscription_id} is {user}'s, who is on {reply.tier}")


_LIMITS = ("requests", "tokens", "computeMs")


def _limit(value: int | None) -> str:
    return "unlimited" if value is None else f"{value:,}"


def _show(reply: ReconcileSubscriptionsReply) -> None:
    if reply.changed:
        output.print_table(
            ("subscription", "user", "was", "is", "tier was", "tier is"),
            [
                (it.id, it.user_id, it.was, it.status, it.previous_tier, it.tier)
                for it in reply.changed
            ],
        )
    if reply.unassigned:
        output.say("Nobody's, as far as is known (`webhost billing assign`):")
        output.print_table(
            ("subscription", "tier", "status", "customer", "email", "users of this customer"),
            [
                (it.id, it.tier, it.status, it.customer_id, it.email, " ".join(it.users))
                for it in reply.unassigned
            ],
        )
    if reply.unknown_variants:
        output.say(f"variants that stand for no tier: {', '.join(reply.unknown_variants)}")
    if reply.missing:
        output.say(f"not at the provider: {', '.join(reply.missing)}")
    if reply.unreadable:
        output.say(f"{reply.unreadable} could not be read: billing's log says why")
    if reply.left_out:
        output.say(f"and {reply.left_out} more that are not listed")
    taken = "taken over" if reply.applied else "nothing was changed"
    read = f"{reply.read} subscription{'' if reply.read == 1 else 's'} read"
    differ = f"{len(reply.changed)} {'differs' if len(reply.changed) == 1 else 'differ'}"
    output.say(f"{read}, {differ}: {taken}")
