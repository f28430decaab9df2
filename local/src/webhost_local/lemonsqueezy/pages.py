"""The store's pages: pay, what was bought, and what was told of it."""

from collections.abc import Iterable, Mapping
from html import escape

from webhost_local.lemonsqueezy.model import BY_ID, Checkout, Subscription
from webhost_local.lemonsqueezy.resources import time_of
from webhost_local.lemonsqueezy.webhooks import Attempted

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0; padding: 3rem 1rem;
  background: light-dark(#f6f4ef, #15140f); }}
main {{ max-width: 44rem; margin: auto; padding: 2rem; border-radius: 12px;
  background: light-dark(#fff, #211f18); box-shadow: 0 8px 32px #0002; }}
h1 {{ font-size: 1.25rem; margin: 0 0 1rem; }}
.notice {{ padding: .5rem .75rem; border-radius: 8px; font-size: .875rem; margin: 0 0 1rem;
  background: light-dark(#fff4d6, #3a3117); color: light-dark(#6b4e00, #f3d98b); }}
label {{ display: block; margin-bottom: 1rem; font-size: .875rem; }}
input {{ display: block; box-sizing: border-box; width: 100%; padding: .6rem; font: inherit;
  border: 1px solid light-dark(#c9c4b5, #4b4738); border-radius: 8px; background: transparent;
  color: inherit; }}
button {{ padding: .5rem 1rem; margin: 0 .5rem .5rem 0; font: inherit; border: 0;
  border-radius: 8px; background: #7047eb; color: #fff; cursor: pointer; }}
form.inline {{ display: inline; }}
table {{ border-collapse: collapse; width: 100%; font-size: .875rem; }}
td, th {{ text-align: left; padding: .3rem .5rem .3rem 0; vertical-align: top; }}
th {{ font-weight: normal; opacity: .7; }}
</style>
</head>
<body><main>
<p class="notice">For development on this machine, in the place of LemonSqueezy: no money moves.</p>
{body}
</main></body>
</html>
"""


def checkout(made: Checkout) -> str:
    variant = BY_ID[made.variant_id]
    body = f"""<h1>{escape(variant.name)}: ${variant.cents / 100:.2f} a month</h1>
<form method="post">
<label>Email<input name="email" type="email" required maxlength="200"
  value="{escape(made.email or "buyer@example.com")}"></label>
<label>Name<input name="name" maxlength="200" value="{escape(made.name)}"></label>
<button>Pay ${variant.cents / 100:.2f}</button>
</form>"""
    return _page(f"Buy {variant.name}", body)


def subscription(one: Subscription, actions: Mapping[str, str]) -> str:
    rows = {
        "Status": one.status + (f" ({one.pause_mode})" if one.pause_mode else ""),
        "Renews": time_of(one.renews_at),
        "Ends": time_of(one.ends_at),
        "Email": one.email,
        "Updated": time_of(one.updated_at),
    }
    buttons = "\n".join(
        f'<form class="inline" method="post" action="/billing/{one.id}/{name}">'
        f"<button>{escape(text)}</button></form>"
        for name, text in actions.items()
    )
    body = f"""<h1>{escape(BY_ID[one.variant_id].name)}, subscription {one.id}</h1>
<table>{_fields(rows)}</table>
<p>{buttons}</p>
<p><a href="/">All subscriptions</a></p>"""
    return _page(f"Subscription {one.id}", body)


def overview(subscriptions: Iterable[Subscription], attempted: Iterable[Attempted]) -> str:
    bought = "\n".join(
        f'<tr><td><a href="/billing/{one.id}">{one.id}</a></td>'
        f"<td>{escape(BY_ID[one.variant_id].name)}</td><td>{escape(one.status)}</td>"
        f"<td>{escape(one.email)}</td></tr>"
        for one in subscriptions
    )
    told = "\n".join(
        f"<tr><td>{escape(one.event_name)}</td><td>{one.subscription_id}</td>"
        f"<td>{', '.join(str(answer or 'none') for answer in one.answers)}</td>"
        f"<td>{_state(one)}</td>"
        f'<td><form class="inline" method="post" action="/deliveries/{one.number}/again">'
        "<button>Send again</button></form></td></tr>"
        for one in attempted
    )
    body = f"""<h1>Subscriptions</h1>
<table><tr><th>Id</th><th>Plan</th><th>Status</th><th>Email</th></tr>{bought}</table>
<h1>Webhook deliveries</h1>
<table><tr><th>Event</th><th>Subscription</th><th>Answers</th><th></th><th></th></tr>{told}</table>
"""
    return _page("Store", body)


def refused(reason: str) -> str:
    return _page("Not possible", f"<h1>{escape(reason)}</h1>")


def _state(one: Attempted) -> str:
    if one.succeeded:
        return "delivered"
    return "dropped" if one.ended else "waiting"


def _fields(rows: Mapping[str, str | None]) -> str:
    return "".join(
        f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows.items() if value
    )


def _page(title: str, body: str) -> str:
    return _FRAME.format(title=escape(title), body=body)
