"""A stream really streams: shown by a gate, not by a clock."""

import pytest

from tests.support.gate import running_gate
from tests.support.stack import Stack

CHUNKS = 5

# Writes a chunk, and the next one only when it is told that this one has arrived.
MODULE = f"""
export default {{
  async invoke(request) {{
    return chunks(request.input.messages.at(-1).content);
  }},
}};

async function* chunks(gate) {{
  for (let k = 1; k <= {CHUNKS}; k++) {{
    yield `chunk ${{k}};`;
    const answer = await fetch(`${{gate}}/${{k}}`);
    if (answer.status !== 200) throw new Error(`chunk ${{k}} never arrived`);
  }}
}}
"""


@pytest.mark.accept("6")
def test_each_chunk_arrives_before_the_next_one_is_written(stack: Stack) -> None:
    caller = stack.caller()
    agent = caller.create_agent()
    caller.deploy(agent["id"], moduleCode=MODULE)
    with running_gate() as (url, gate):
        gate.open_all()
        caller.invoke(agent["id"], url)
    with running_gate() as (url, gate):
        received: list[str] = []
        names: list[str] = []
        for name, data in caller.stream(agent["id"], url):
            names.append(name)
            if name == "delta":
                received.append(data["text"])
                gate.open(f"/{len(received)}")
    assert received == [f"chunk {k};" for k in range(1, CHUNKS + 1)]
    assert gate.asked == [f"/{k}" for k in range(1, CHUNKS + 1)]
    assert names == ["meta", *["delta"] * CHUNKS, "usage", "done"]
