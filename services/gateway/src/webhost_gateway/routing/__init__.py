"""Where invocations go, and what their users have left: answered from memory."""
