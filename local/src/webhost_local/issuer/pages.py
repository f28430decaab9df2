"""The issuer's two pages: sign in, and what went wrong."""

from collections.abc import Mapping
from html import escape

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid;
  place-items: center; background: light-dark(#f4f5f7, #14161a); }}
main {{ width: min(24rem, calc(100vw - 4rem)); padding: 2rem; border-radius: 12px;
  background: light-dark(#fff, #1e2127); box-shadow: 0 8px 32px #0002; }}
h1 {{ font-size: 1.25rem; margin: 0 0 .25rem; }}
p {{ margin: 0 0 1.25rem; color: light-dark(#5b6270, #a3aab8); }}
.notice {{ padding: .5rem .75rem; border-radius: 8px; font-size: .875rem;
  background: light-dark(#fff4d6, #3a3117); color: light-dark(#6b4e00, #f3d98b); }}
label {{ display: block; margin-bottom: 1rem; font-size: .875rem; }}
input {{ display: block; box-sizing: border-box; width: 100%; margin-top: .25rem; padding: .6rem;
  font: inherit; border: 1px solid light-dark(#c9ced8, #3d434f); border-radius: 8px;
  background: transparent; color: inherit; }}
button {{ width: 100%; padding: .7rem; font: inherit; font-weight: 600; border: 0;
  border-radius: 8px; background: #2f5bea; color: #fff; cursor: pointer; }}
</style>
</head>
<body><main>{body}</main></body>
</html>
"""

_SIGN_IN = """<h1>Sign in</h1>
<p>to <strong>{client}</strong></p>
<p class="notice">For development on this machine: your identity is not checked, and there is
no password.</p>
<form method="post" action="authorize">
{hidden}
<label>User<input name="subject" required maxlength="200" autofocus autocomplete="username"
  placeholder="alice"></label>
<label>Email (optional)<input name="email" type="email" maxlength="200"></label>
<label>Name (optional)<input name="name" maxlength="200"></label>
<button>Sign in</button>
</form>"""


def sign_in(parameters: Mapping[str, str]) -> str:
    """The form, which carries the authorization request's parameters along."""
    hidden = "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in parameters.items()
    )
    body = _SIGN_IN.format(client=escape(parameters["client_id"]), hidden=hidden)
    return _FRAME.format(title="Sign in", body=body)


def refused(reason: str) -> str:
    body = f"<h1>This sign-in cannot go on</h1><p>{escape(reason)}</p>"
    return _FRAME.format(title="Sign-in refused", body=body)
