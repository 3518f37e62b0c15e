"""The rules by which the local server answers in a model's place."""


def rule_reply(body: dict) -> str:
    """The reply of a model by rule, to a chat request's body."""
    return "THOUGHT: I look around first.\n\n```bash\nls -la\n```"
