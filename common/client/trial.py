"""Whether a model is of use at all: its first items tell."""

from __future__ import annotations

# Of ten items: a writer of which the audit takes one reply in four is left by mistake once in a
# thousand runs.
_REPLIES_EACH = 2.5


class Trial:
    """The refused replies of a model, until one is accepted: so many items fail it.

    Each has had so many replies on the average, none good.
    """

    def __init__(self, items: int):
        self.is_passed = False
        self.replies = 0  # those refused
        self._most_items = items
        self._items = 0

    def fails_with(self, nth: int, is_cut: bool, tries: int) -> bool:
        """Count the nth refused reply of an item, which has `tries`; return whether it is over."""
        self._items += nth == 1
        if not is_cut or nth == tries:  # of one that is cut off more tokens are yet to come
            self.replies += tries if is_cut else 1
        is_enough = self.replies >= _REPLIES_EACH * self._most_items
        return not self.is_passed and self._items >= self._most_items and is_enough
