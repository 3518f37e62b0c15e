"""What the agent was shown: all messages, each command with its output, and indices over them.

Every question that is asked once for each hidden thing is a look-up here, so that an audit stays
linear in the length of the chat.
"""

import re
from collections import defaultdict
from functools import cached_property

from common.replies.protocol import bash_blocks
from common.replies.record import name_parts, squeeze, text_of, token_triples
from common.replies.shell import Command, expand_script
from common.replies.views import TO_THE_END, addressed_lines

_MIN_LOOSE_LINE = 12  # prompts speak of "line 1" and "lines 1-10" in their examples, of no file
PRINTED_NUMBER = re.compile(r"^(?:Observation:)?[ \t]{0,12}(\d{1,7})[:\t-]", re.MULTILINE)
LINE_NUMBER = re.compile(
    r"(?:(?<![\w./-])([\w./-]{1,150}\.\w{1,10})[`'\"*]{0,3}"
    r"(?:,? (?:at|on|around|near))?[ ,(:]{0,3})?"
    r"(?:\b(?:lines?|row|ln)(?: numbers?| no\.?)?[ #~.]{0,3}|\bll\. ?|#L|\bL|(?<=\w:)"
    r"|(?(1)(?<=\w\()(?=\d{1,7}\))|(?!)))(\d{1,7})\b"  # `file.cc(335)`; without a file it is a call
    r"(?:\s?(?:-|–|—|:|,|to|and|through|until)\s?(?:lines? |L)?(\d{1,7})\b)?",
    re.IGNORECASE,
)
_NAMED_THING = re.compile(
    r"\b([A-Z]+[a-z]+(?:[A-Z]+[a-z0-9]*)+|\w{1,60}(?=\()|[A-Z]\w{1,60}(?=\.\w)|\w{1,60}_\w{1,60})\b"
    r"|\b([A-Za-z]{1,60}-[a-z]{1,60})\b|`([\w.]{1,100})`"
)


def base_name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def same_file(named: str, path: str) -> bool:
    """Tell whether two paths can be one: `forms/models.py`, `/testbed/django/forms/models.py`."""
    named = named.lstrip("./")
    return bool(named) and f"/{path}".endswith(f"/{named}") or f"/{named}".endswith(f"/{path}")


class Chat:
    """The chat up to the turn. Odd messages count as empty."""

    def __init__(self, messages):
        messages = messages if isinstance(messages, list) else []
        messages = [message for message in messages if isinstance(message, dict)]
        contents = [text_of(message.get("content")) for message in messages]
        answers = [
            place for place, message in enumerate(messages) if message.get("role") == "assistant"
        ]
        self.text = "\n".join(contents)
        self.lower = self.text.lower()
        self.task = "\n".join(contents[: answers[0]] if answers else contents)
        self._exchanges = [(contents[i], "\n".join(contents[i + 1 : i + 2])) for i in answers]

    @cached_property
    def turns(self) -> list[tuple[list[Command], list[str], str]]:
        """The commands of each earlier turn, what they name, and their output."""
        found = []
        for answer, output in self._exchanges:
            commands, said = expand_script("\n".join(bash_blocks(answer)))
            words = [word for command in commands for word in command.argv[1:]]
            found.append((commands, words + said, output))
        return found

    @cached_property
    def words(self) -> set[str]:
        return set(re.findall(r"\w+", self.text)) | set(re.findall(r"--[a-z][\w-]+", self.text))

    @cached_property
    def lower_words(self) -> set[str]:
        return {word.lower().strip("_") for word in self.words}

    @cached_property
    def ids(self) -> set[str]:
        """The first seven characters of each word: enough to know a commit again."""
        return {word[:7] for word in self.words}

    @cached_property
    def squeezed(self) -> str:
        return squeeze(self.text)

    @cached_property
    def token_triples(self) -> set[tuple]:
        return token_triples(self.text)

    @cached_property
    def task_names(self) -> set[str]:
        """What the task names: CamelCase, snake_case, `marked`, called(), a-b; in lower case."""
        found = set()
        for groups in _NAMED_THING.findall(self.task):
            for name in "".join(groups).split("."):
                found.add("".join(name_parts(name)))
        return found - {""}

    @cached_property
    def shown_names(self) -> set[str]:
        """The base names of files in all commands and outputs, not in the task."""
        found = set()
        for _, words, output in self.turns:
            for text in [output, *words]:
                found.update(base_name(path) for path in re.findall(r"[\w./-]+", text))
        return found

    @cached_property
    def _shown_lines(self) -> dict[str, list[tuple]]:
        """For each base name that commands named: (path, spans); without a name, those of all."""
        found = defaultdict(list)
        for commands, words, output in self.turns:
            by_name = defaultdict(set)
            for path, first, last in addressed_lines(commands):
                by_name[base_name(path)].add((first, last))
            numbers = {(int(number), int(number)) for number in PRINTED_NUMBER.findall(output)}
            paths = [word for word in dict.fromkeys(words) if "." in word and len(word) < 300]
            for path in paths:
                spans = by_name[base_name(path)]
                some = spans - {(1, TO_THE_END)} | numbers
                found[base_name(path)].append((path, some or {(1, TO_THE_END)}))
            if paths:
                found[""].append(("", set().union(*by_name.values()) - {(1, TO_THE_END)} | numbers))
        return found

    @cached_property
    def _stated_lines(self) -> dict[str, list[tuple]]:
        """For each base name: (path, first, last) as tracebacks, links and prose tell them.

        Numbers without a file count where the task has them: the agent's own words come from what
        it was shown.
        """
        found = defaultdict(list)
        for line in self.text.split("\n"):
            for path, first, last in LINE_NUMBER.findall(line):
                if path:
                    found[base_name(path)].append((path, int(first), int(last or first)))
        for path, first, last in LINE_NUMBER.findall(self.task):
            if not path and int(first) >= _MIN_LOOSE_LINE:
                found[""].append(("", int(first), int(last or first)))
        return found

    def shown_lines(self, path: str) -> list[tuple[int, int]]:
        """Return the (first, last) that commands showed of a file; without a path, of all."""
        entries = self._shown_lines.get(base_name(path), [])
        own = [spans for named, spans in entries if not path or same_file(named, path)]
        return list(set().union(*own))

    def stated_lines(self, path: str) -> list[tuple[int, int]]:
        """Return the (first, last) of a file's lines that the chat tells; without a path of all."""
        entries = self._stated_lines.get("", [])
        if path:
            own = self._stated_lines.get(base_name(path), [])
            entries = [*entries, *(entry for entry in own if same_file(entry[0], path))]
        else:
            entries = [entry for entries in self._stated_lines.values() for entry in entries]
        return [(first, last) for _, first, last in entries]
