"""Talk of a source that the agent does not have: the PR, the merged fix, a reference solution, commit ids.

One table of wordings, each kept narrow enough that an engineer's plain talk of "the fix" or "the final diff"
passes. What the chat itself says is no disclosure: mini-swe-agent's prompts speak of a "PR description",
issues of patches and numbers.
"""

import re

_HIDDEN = (
    r"(?:hidden|secret|gold(?:en)?|reference|ground[- ]truth|oracle|merged|accepted|privileged|leaked"
    r"|upstream|official|canonical)"
)
_PULL = r"(?:PR|pull[- ]request|merge[- ]request)"
_WORK = rf"(?:patch|fix|diff|solution|{_PULL}|commit|change(?:s|set)?|answer)"
_DID = (
    r"(?:#?\d+ )?(?:(?:only|just|simply|also|already|actually) )?(?:shows?|showed|does|did|adds?|added"
    r"|change[sd]?|modif(?:y|ies|ied)|touche[sd]|edit(?:s|ed)|introduce[sd]?|replace[sd]?|rename[sd]?"
    r"|remove[sd]?|moves?d?|fix(?:es|ed)|implement(?:s|ed)|reveals?|contains?|tells?|made|makes|rewrites"
    r"|rewrote|landed)"
)
_DONE = (
    r"(?:fixed|resolved|merged|landed|done|solved|addressed|changed|patched|handled|implemented|closed"
    r"|accepted|shipped)"
)
_NO_LABEL = r"(?! (?:label|value|target|data|mask|box|class|annotation)\w*)"  # of machine learning
_WORDINGS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # a source that an agent does not have
        rf"\b{_HIDDEN} (?:(?:PR|code|source|bug|final|correct|one-line) )?{_WORK}\b|\bmerged version\b",
        rf"\b(?:hidden|secret|privileged|inside) (?:{_PULL} )?(?:information|info|knowledge|record|context"
        r"|details?|hints?|data)\b",
        rf"\b(?:provided|eventual|landed|committed|shipped|later|subsequent) (?:patch|fix|diff|{_PULL})\b",
        rf"\b(?:known|fixing|fix) (?:{_PULL}|commit)\b|\bknown (?:fix|patch|solution)\b",
        r"\b(?:actual|real|true|expected) patch\b",
        rf"\b(?:actual|real|true|original|final|corresponding|associated|linked) {_PULL}\b(?! description)",
        r"\bsolution (?:patch|diff|record)\b|\btest[_ ]patch\b|\b(?:FAIL|PASS)_TO_PASS\b|\banswer key\b",
        r"\bhidden tests? (?:(?:will|would|should|must|may|probably) ){0,2}(?:expect|check|cover|require"
        r"|verif|assert|call|want|need|use)\w*\b|\bSWE-?(?:re)?bench\b",
        rf"\b(?:according to|as per|per|from|in|with|matches|matching) the ground[- ]truth\b{_NO_LABEL}"
        rf"|\bground[- ]truth (?:says|uses|localizes|is that|{_DID})\b",
        r"\bblind[- ]agent\b|\b(?:the|my) briefing\b",
        r"\b(?:target|dataset(?:['’]s)?|backported) (?:fix|patch)\b",
        rf"\b{_PULL}(?:['’]s)? (?:reviewers?|metadata)\b|\breviewers? of the {_PULL}\b",
        r"\bchanged[- ]files list\b|\bfiles? (?:changed|touched) (?:in|by) the PR\b",
        r"\b(?:maintainers?|project|author)(?:['’]s?)? (?:own )?(?:fix|patch|commit|diff)\b",
        r"\b(?:the|this|that) PR(?:'s|’s)? (?:diff|patch|changes|changeset|commits?|fix|record|number|title"
        r"|branch|solution|tests?)\b",
        # what it does or shows
        rf"\bthe (?:patch|diff|pull[- ]request|merge[- ]request|PR) (?:says |uses )?{_DID}\b",
        rf"\bthe (?:patch|diff|pull[- ]request) (?:says|uses)\b|\bas the fix {_DID}\b",
        rf"\b(?:actual|real|true|original|final|correct|provided|given) (?:fix|solution|patch) (?:was|{_DID})\b",
        rf"\bsolution (?:provided|given) {_DID}\b|\b(?:according to|as per|per) the solution\b",
        r"\b(?:according to|as per|per|based on|following|given|from|in|at|like|matching|mirrors?|follows?|by"
        r"|(?<!me )(?<!to )see|with|to) the "  # "let me see the diff" is a plan
        r"(?:(?:provided|given|known|actual|original|real|final|correct|full) )?(?:patch|diff)\b"
        r"(?! (?:file|script|command|method|function|object))",
        r"\b(?:as (?:done |fixed |changed |implemented )?in|mirrors?|matching|matches|same as in|like in|like"
        r"|know from|(?:fix|change|edit|patch)(?:s|es|ed)?(?: made| done)? in) the PR\b"
        r"(?! (?:description|example|snippet|text|issue|code|says|mentions|suggest))",
        rf"\bin the PR,? (?:the|this|that) (?:\w+ ){{1,3}}(?:is|was|gets|got|are|were) (?:{_DONE}|renamed"
        r"|replaced|removed|moved|added)\b",
        # what became of it
        rf"\b(?:fix|patch|change|{_PULL}|solution)\b[^.]{{0,30}}\b(?:was|were|got|been|later|eventually|already) "
        r"(?:\w+ )?(?:merged|landed|upstreamed)\b",
        r"\b(?:fixed|merged|landed|patched|shipped) (?:in |by )?upstream\b",
        r"\bupstream (?:\w+ )?(?:fixe[sd]|merged|patched|landed)\b",
        rf"\bmaintainers? (?:\w+ )?(?:{_DONE}|committed|ended up)\b",
        rf"\b(?:commit|{_PULL}) that (?:{_DONE}|fixes|closes|resolves)\b",
        # how the writer knows, and how it hides that
        r"\bI (?:was|am|have been|'ve been|’ve been) (?:given|told|shown|provided) (?:with )?the (?:\w+ )?"
        rf"(?:{_WORK}|record)\b",
        r"\bI(?: have|'ve|’ve)? (?:already (?:know|knew|have|had|saw|seen)|(?:know|knew|saw|learned|can see) "
        r"(?:from|in)|seen|access to) the (?:\w+ )?(?:patch|fix|diff|solution|PR|answer|record)\b"
        r"(?! description)",
        r"\b(?:patch|diff|fix|solution|record)(?: that)? (?:I|we) (?:was|were|am|are|have been|['’]ve been)"
        r" (?:given|shown|told)\b",
        r"\b(?:without|not|n't|avoid) (?:reveal|disclos|let(?:ting)? on|leak|giv(?:e|ing) away|mention)\w* "
        r"(?:\w+ ){0,3}(?:knowledge|hidden|patch|PR|fix|solution|record|answer|source)\b",
        r"\b(?:act|pretend|behav)(?:e|ing)? (?:as if|as though|like|that|not to|to not|I|we)\b[^.]{0,40}"
        r"\b(?:know|knew|seen|blind|honest|hidden|patch|fix|solution)\w*",
    )
]
# Every pattern above holds one of these: they tell cheaply which sentences to look at.
_TELLING = (
    "patch",
    "fix",
    "diff",
    "solution",
    "pr",
    "pull",
    "merge",
    "commit",
    "change",
    "answer",
    "record",
    "hidden",
    "secret",
    "privileged",
    "inside",
    "upstream",
    "maintainer",
    "_to_pass",
    "bench",
    "know",
    "act",
    "behav",
    "ground",
    "blind",
    "briefing",
    "target",
    "pretend",
)
_PR_WORD = re.compile(r"\b(?:PRs?|[Pp]ull[- ][Rr]equests?|[Mm]erge[- ][Rr]equests?)\b")
_PR_NUMBER = re.compile(
    r"\b(PRs?|pull(?:[- ]request)?s?|merge[- ]requests?|MR|GH)?[ \-/#:]{0,3}(?:no\. ?"
    r"|number )?(?<![\w.])(?:#|(?<=[ \-/#:]))(\d{2,7})\b",
    re.IGNORECASE,
)
_TICKET = re.compile(
    r"\b(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|issue|ticket|bug|see|by|in) (#\d{2,7})\b",
    re.IGNORECASE,
)
_COMMIT = re.compile(
    r"\b(?:(?:commit|sha|revision|rev|changeset|hash)\b[ :`'\"(]{1,3}"
    r"|git (?:show|diff|log|checkout|cherry-pick) (?:-\S{1,40} )*)([0-9a-f]{7,40})\b"
    r"|\b([0-9a-f]{7,40})\b"
)


def outside_sources(
    reply: str, chat: str, patch: str, base_commit: str, pr_number: str
) -> list[str]:
    """The wordings of the reply that speak of a source outside the chat.

    Of the hidden record only `patch`, `base_commit` and `pr_number` are used: their ids count even without a
    word like "commit" before them.
    """
    heard = chat.lower()
    sentences = [
        " ".join(text.split()) for text in re.split(r"(?<=[.!?])\s|\n\s*\n|\n[ \t]*[-*`]", reply)
    ]
    lowered = zip(sentences, map(str.lower, sentences))
    telling = [sentence for sentence, lower in lowered if any(word in lower for word in _TELLING)]
    found = [match[0] for s in telling for pattern in _WORDINGS for match in pattern.finditer(s)]
    if "the patch" in heard:
        found = [text for text in found if "the patch" not in text.lower()]
    if "the diff" in heard or "diff --git" in heard or "git diff" in reply:  # the agent's own
        found = [text for text in found if not re.search(r"\bthe (?:final )?diff\b", text.lower())]
    if not _PR_WORD.search(chat):
        found += _PR_WORD.findall(reply)
    for named, number in _PR_NUMBER.findall(reply):
        if (named or number == pr_number) and not _says(chat, number):
            found.append(f"{named} {number}".strip())
    found += [number for number in _TICKET.findall(reply) if not _says(chat, number[1:])]
    for named, bare in _COMMIT.findall(reply):
        digits = named or bare
        in_record = named or digits in patch or base_commit.startswith(digits)
        if in_record and digits not in chat and re.search(r"\d", digits) and not digits.isdigit():
            found.append(digits)
    return [text for text in dict.fromkeys(found) if not _says(heard, text.lower())]


def _says(chat: str, phrase: str) -> bool:
    """Whether the chat holds the phrase as a whole: "PR" does not stand in "print"."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", chat) is not None
