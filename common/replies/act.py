"""What one reply does: its prose, its commands in full, all that they name, the code it writes."""

import re
from collections import defaultdict
from functools import cached_property

from common.replies.chat import base_name
from common.replies.protocol import bash_blocks, prose_parts
from common.replies.record import NAME, squeeze, token_pairs
from common.replies.shell import expand_script
from common.replies.styles import edited_files, script_style

_MOST = 200  # patterns that are weighed
_FIRST_LINES = 20  # that hold a pair of tokens: a pair in more lines tells nothing
GUESS = re.compile(
    r"\b(?:might|may|maybe|perhaps|probabl[ey]|likely|suspect|guess|could|or similar|or wherever"
    r"|typically|usually|if it exists)\b",
    re.IGNORECASE,
)
# Before `ls` or a search: the plan to see whether a file is there.
PLAN = re.compile(
    GUESS.pattern
    + r"|\b(?:look(?:ing)? (?:at|in|into|for)|check|find|search|locate|see if|confirm)\b",
    re.IGNORECASE,
)
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n\s{0,99}\n|\n[ \t]{0,99}[-*`]")


def sentences(text: str) -> list[str]:
    return _SENTENCE_END.split(text)


class Act:
    """One reply: its prose, its commands, and all that they name."""

    def __init__(self, reply: str):
        self.reply = reply
        self.prose = "\n".join(prose_parts(reply))
        self.script = "\n".join(bash_blocks(reply))
        self.commands, self.named = expand_script(self.script)
        self.commanded = self.script + "\n" + "\n".join(self.named)
        self.said = reply + "\n" + "\n".join(self.named)
        self.squeezed = squeeze(self.said)
        self.edited = "\n".join(edited_files(self.commands))
        self.globs = [word for word in self.named if re.search(r"[*?]|\[.", word)][:_MOST]
        self.words = set(re.findall(r"\w+", self.said))
        self.names = set(NAME.findall(self.said))
        self.base_names = {base_name(path) for path in re.findall(r"[\w./+-]+", self.said)}
        self.sentences = sentences(self.prose)

    def only_says(self, name: str, manner: re.Pattern) -> bool:
        """Tell whether every sentence with this name is of this manner: a guess, a plan."""
        return all(manner.search(sentence) for sentence in self.sentences if name in sentence)

    def only_looks_for(self, name: str) -> bool:
        """Tell whether the commands do nothing with this file but see whether it is there."""
        if name in self.edited or script_style(self.commands) not in ("look", "search"):
            return False
        naming = [command for command in self.commands if name in "\n".join(command.words)]
        return all(command.program in ("ls", "find", "fd", "tree") for command in naming)

    def looks_in(self, folder: str) -> bool:
        """Tell whether the commands name this folder, or one that holds it."""
        places = [word.strip("./") for command in self.commands for word in command.argv[1:]]
        return any(place and f"{folder}/".startswith(f"{place}/") for place in places)

    @cached_property
    def asserted_names(self) -> set[str]:
        """The names outside of fenced code that is no command."""
        prose = _FENCED.sub("", self.prose)
        return set(NAME.findall(prose)) | set(NAME.findall(self.commanded))

    @cached_property
    def written(self) -> str:
        """Code that the reply proposes (other fenced blocks), writes to files, or runs."""
        proposed = "\n".join(_FENCED.findall(self.prose))
        return proposed + (self.script if script_style(self.commands) in ("edit", "run") else "")

    @cached_property
    def lines(self) -> list[tuple[str, set]]:
        """Each line with its pairs of neighbouring tokens."""
        return [(line, token_pairs(line)) for line in dict.fromkeys(self.said.splitlines())]

    @cached_property
    def lines_with(self) -> dict[tuple, list[int]]:
        """The places of the lines that hold a pair of tokens, of each pair the first few."""
        places = defaultdict(list)
        for place, (_, pairs) in enumerate(self.lines):
            for pair in pairs:
                if len(places[pair]) < _FIRST_LINES:
                    places[pair].append(place)
        return places
