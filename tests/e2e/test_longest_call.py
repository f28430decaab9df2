"""LONGEST_CALL_S, given to `webhost up`, bounds a call."""

import time

import pytest

from tests.support.deadline import until
from tests.support.stack import running_stack

LONGEST_S = 2
ENDLESS = """
export default {
  async invoke() {
    await new Promise((done) => setTimeout(done, 60000));
    return "Too late.";
  },
};
"""


@pytest.mark.long
@pytest.mark.accept("A13")
def test_the_setting_bounds_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGEST_CALL_S", str(LONGEST_S))
    with running_stack() as stack:
        caller = stack.caller()
        agent = caller.create_agent()
        caller.deploy(agent["id"], moduleCode=ENDLESS)
        until(
            lambda: caller.post_invoke(agent["id"], "Do you know it?").status_code == 504,
            "a gateway to know it",
        )
        began = time.monotonic()
        answer = caller.post_invoke(agent["id"], "Take your time.")
        took = time.monotonic() - began
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "RUNTIME_ERROR")
        assert LONGEST_S <= took < 3 * LONGEST_S
