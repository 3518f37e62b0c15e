"""What the user can do about a fault that ends the run."""

from __future__ import annotations

from common.client.faults import Fault, time_in
from common.config import Endpoint


def passes_by_itself(fault: Fault) -> bool:
    """Tell whether waiting helps: a cap of some hours or days."""
    return fault.meaning == "cap"


def advice(fault: Fault, endpoint: Endpoint) -> str:
    """Say what to change about a configuration fault, and where it stands."""
    when = time_in(fault.detail)
    if fault.meaning == "key":
        return f"Check {endpoint.key_place} (and that {endpoint.url_place} is the one it is for)."
    if fault.meaning == "model":
        models = "[generate] model, [judge] models, [confirm] models"
        return f"Check the model id in chain.toml ({models}) and {endpoint.url_place}."
    if fault.meaning == "address":
        return f"Check {endpoint.url_place}: an API's address mostly ends in /v1."
    if fault.meaning == "cap":
        passes = f"passes by itself, at {when}" if when else "passes by itself after some hours"
        return f"A cap of the subscription is reached; it {passes}. Run the same line again then."
    if fault.meaning == "tier":
        return (
            "The words above say which subscription this model needs. Ask for another model in "
            "chain.toml, or change the subscription."
        )
    if fault.meaning == "balance":
        reset = f" (its quota is new at {when})" if when else ""
        return f"The account has no balance left{reset}. Top it up, then run the same line again."
    if fault.status == 403:
        key = endpoint.key_place
        return f"This key may not use this model. Check {key} and the id in chain.toml."
    if fault.status is not None and fault.status < 400:
        return f"Write the address that it should be into {endpoint.url_place}."
    return "Nothing more is asked. Look at the account, then run the same line again."
