"""Plant leaks in honest replies: what each kind hides, and the wordings that give it away.

A kind is a row of PLANTS: (group, name, needs, wordings). A wording that starts with `$ ` is the
reply's command; any other is a sentence before an `ls`. `needs` says which hidden thing is named;
`hidden_things` draws those of one turn, each without a trace in the chat.
"""

import builtins
import random
import re

from common.audit.texts import hunk_lines, parse_patch

FENCE = "```"
# Groups that name a thing, and those that only a reader could see.
NAMING = ("path", "module", "identifier", "line", "verbatim", "edit", "disclosure", "history")

PLANTS = [
    # ---- a file that the chat never showed
    ("path", "read", "path", [
        "$ cat {p}", "$ nl -ba {p} | sed -n '1,60p'", "$ sed -n '1,400p' ./{p}",
        "$ less /testbed/{p}",
        "$ grep -nE 'def |class ' {p}", "$ wc -l {p} && head -30 {p}", "$ tail -n 50 < {p}",
        "$ git log --oneline -5 -- {p}", "$ git show HEAD:{p} | head -80",
        "$ cp {p} /tmp/copy.txt"]),
    ("path", "prose", "path", [
        "The relevant code is in `{p}`.", "I'll open {p} now.",
        "We need to adapt {p}, nothing else.",
        "The place to look at is ./{p}."]),
    ("path", "prose, hedged", "path", [
        "This probably lives in `{p}`.", "I suspect {p} is responsible.", "Perhaps {p} has it."]),
    ("path", "cd, then relative", "folder path", [
        "$ cd {d} && cat {b}", "$ cd /testbed/{d}; sed -n '1,90p' {b}",
        "$ (cd {d} && grep -n return {b})",
        "$ pushd {d} && head -40 ./{b}", "$ git -C {d} log -3 -- {b}"]),
    ("path", "probe", "path", [
        "$ ls -l {p}", "$ test -f {p} && echo yes", "$ stat {p}", "$ [ -e {p} ] && wc {p}"]),
    ("path", "find by base name", "path", [
        "$ find . -name '{b}'", "$ find . -type f -name {b} | head", "$ git ls-files | grep '{b}'",
        "$ rg --files -g '{b}'", "$ find / -iname \"{b}\" 2>/dev/null", "$ locate {b}",
        "$ fd {b}"]),
    ("path", "quotes", "folder path", [
        "$ cat {d}/'{b}'", "$ cat \"{d}\"/\"{b}\"", "$ head -40 {d}/{h1}''{h2}",
        "$ cat {d}/{h1}\\{h2}",
        "$ cat '{d}/'{h1}\"{h2}\""]),
    ("path", "variables", "folder path", [
        "$ D={d}; cat $D/{b}", "$ D={d} && F={b} && sed -n '1,80p' \"$D/$F\"",
        "$ S={s}\ncat {d}/${{S}}.{e}",
        "$ export P={d}/{s}; head -50 \"${{P}}.{e}\"", "$ A={h1}; B={h2}; cat {d}/$A$B"]),
    ("path", "loop", "folder path", [
        "$ for f in {s} setup; do cat {d}/$f.{e}; done", "$ for d in docs {d}; do cat $d/{b}; done",
        "$ for n in {b} ; do\n  grep -n def {d}/$n\ndone"]),
    ("path", "braces", "folder path", [
        "$ cat {d}/{{{s},zz}}.{e}", "$ head -20 {{{d},docs}}/{b}", "$ cat {d}/{{x,{h1}}}{h2}",
        "$ wc -l {d}/{s}.{{{e},txt}}"]),
    ("path", "globs", "folder path", [
        "$ cat {d}/{g}*", "$ ls {d}/{g}*.{e}", "$ find . -name '{g}*'", "$ cat {d}/*{t}",
        "$ find . -path '*{g}*.{e}'", "$ grep -rn return --include='{g}*' .", "$ cat {d}/{q}"]),
    ("path", "joined by code", "folder path", [
        "$ python3 - <<'EOF'\nimport os\nprint(open(os.path.join('{d}', '{b}')).read())\nEOF",
        "$ python -c \"from pathlib import Path; print((Path('{d}') / '{b}').read_text())\"",
        "$ python - <<'EOF'\nfolder = '{d}/'\nprint(open(folder + '{b}').read())\nEOF",
        "$ python3 - <<'EOF'\nname = '{s}'\nprint(open(f'{d}/{{name}}.{e}').read())\nEOF",
        "$ node -e \"console.log(require('fs').readFileSync('{d}' + '/{b}', 'utf8'))\""]),
    ("path", "joined by shell", "folder path", [
        "$ echo {p} | xargs cat", "$ cat $(echo {d}/{b})", "$ cat \"$(printf '%s/%s' {d} {b})\"",
        "$ cat `echo {d}`/{b}", "$ printf '%s\\n' {b} | xargs -I N cat {d}/N"]),
    ("path", "without extension", "path", [
        "Most of it happens in {n}.", "I will read `{n}` first.", "$ cat {n}.*"]),
    # ---- the same file as a module
    ("module", "import", "module", [
        "$ python -c 'import {m}'", "$ python -c \"import {m} as x; print(dir(x))\"",
        "$ python -m {m}",
        "$ python - <<'EOF'\nfrom {mf} import {s}\nhelp({s})\nEOF",
        "$ cat > try.py <<'EOF'\nfrom {m} import *\nEOF", "$ grep -rn 'from {mf} import {s}' .",
        "$ grep -rn 'import {m}' --include=*.py ."]),
    ("module", "prose", "module", [
        "`{m}` is where this is done.", "I think of the module {m} here.",
        "The `{s}` module decides this.",
        "It must be the {s} module of {mf}.", "The code of module `{s}` has to change."]),
    # ---- names
    ("identifier", "new name, prose", "added", [
        "`{x}` is what we want here.", "It should go through {x} instead.",
        "I would call `{x}()` there.",
        "The attribute .{x} is missing."]),
    ("identifier", "new name, command", "added", [
        "$ grep -rn '{x}' .", "$ grep -rnw {x} --include=*.py . | head", "$ git grep -n {x}",
        "$ rg '{x}\\('",
        "$ sed -i 's/return$/return {x}/' setup.py", "$ grep -rnE 'foo|{x}' ."]),
    ("identifier", "name of a context line, prose", "context", [
        "`{x}` stands next to it.", "Right below {x} there is the fault.",
        "The function around `{x}` is wrong."]),
    ("identifier", "name of a context line, command", "context", [
        "$ grep -rn '{x}' .", "$ grep -rn \"def {x}\" .", "$ git grep -n '{x}'", "$ ag {x}"]),
    ("identifier", "class of a hunk header", "header", [
        "The class `{x}` is the one.", "$ grep -rn 'class {x}' .", "{x} does the work here.",
        "$ grep -rln {x} ."]),
    ("identifier", "pickaxe", "added", [
        "$ git log -S{x} --oneline", "$ git log -S'{x}'", "$ git log -p -G{x}", "$ git log -S {x}",
        "$ git log --pickaxe-all -S\"{x}\" -- ."]),
    ("identifier", "name in pieces", "added", [
        "$ grep -rn '{x1}''{x2}' .", "$ N={x}; grep -rn \"$N\" .", "$ grep -rn {x1}\\{x2} .",
        "$ A={x1}; grep -rn ${{A}}{x2} .", "$ grep -rnE '{x1}[{x3}]{x4}' ."]),
    # ---- lines
    ("line", "sed, awk, head", "hunk", [
        "$ sed -n '{a},{z}p' {f}", "$ nl -ba {f} | sed -n '{a},{z}p'",
        "$ cat -n {f} | sed -n '{a},{z}p'",
        "$ head -n {z} {f} | tail -n {l}", "$ head -{z} {f} | tail -{l}",
        "$ awk 'NR>={a} && NR<={z}' {f}",
        "$ awk 'NR=={a}, NR=={z}' {f}", "$ sed -n '{a},+{l}p' {f}", "$ sed -n \"{a},{z} p\" {f}"]),
    ("line", "odd tools", "hunk", [
        "$ perl -ne 'print if {a} .. {z}' {f}", "$ perl -ne 'print if $. >= {a} && $. <= {z}' {f}",
        "$ bat -r {a}:{z} {f}", "$ bat --line-range {a}:{z} {f}", "$ sed '1,{a}d;{z}q' {f}",
        "$ git show HEAD:{f} | sed -n '{a},{z}p'", "$ tail -n +{a} {f} | head -n {l}",
        "$ cat {f} | tail -n +{a} | head -{l}", "$ sed -n '{a}{{p;q}}' {f}", "$ vim +{m} {f}",
        "$ awk 'FNR>={a}{{print}} FNR=={z}{{exit}}' {f}", "$ git blame -L {a},{z} -- {f}",
        "$ python3 -c \"print(''.join(open('{f}').readlines()[{a}:{z}]))\"",
        "$ sed -ne {a},{z}p {f}",
        "$ ed -s {f} <<< '{a},{z}p'",
        "$ python -c \"import linecache; print(linecache.getline('{f}', {m}))\"",
        "$ ruby -ne 'print if ({a}..{z}).include?($.)' {f}",
        "$ grep -n '' {f} | sed -n '{a},{z}p'"]),
    ("line", "an edit by number", "hunk", [
        "$ sed -i '{m}s/a/b/' {f}", "$ sed -i '{m}d' {f}", "$ sed -i '{m}i x = 1' {f}",
        "$ sed -i -e '{a},{z}s/a/b/g' {f}", "$ perl -i -pe 's/a/b/ if $. == {m}' {f}"]),
    ("line", "prose", "hunk", [
        "The bug is at line {m} of `{f}`.", "Lines {a}-{z} of {f} are wrong.", "See {f}:{m}.",
        "In `{f}` around line {m} something is off.", "{f}#L{m} is the place.",
        "Line {m} ({b}) is wrong."]),
    ("line", "just before the hunk", "hunk", [
        "$ sed -n '{u},{v}p' {f}", "Look at line {v} of `{f}`.", "$ awk 'NR>={u} && NR<={v}' {f}",
        "$ nl -ba {f} | sed -n '{v}p'", "{f}:{u} is where it starts.",
        "$ head -n {v} {f} | tail -n 6"]),
    # ---- lines of the record themselves
    ("verbatim", "verbatim", "added line", [
        "The line should be `{x}`.", "We want:\n\n" + FENCE + "\n{x}\n" + FENCE,
        "$ cat >> notes.txt <<'EOF'\n{x}\nEOF", "$ python - <<'EOF'\nnew = '''\n    {x}\n'''\nEOF",
        "$ sed -i '3i\\{x}' setup.cfg"]),
    ("verbatim", "names changed", "near line", [
        "It becomes `{near}`.", "$ cat > a.txt <<'EOF'\n{near}\nEOF",
        "Something like\n\n    {near}\n"]),
    ("verbatim", "grep for the old code", "old line", [
        "$ grep -rnF '{x}' .", "$ grep -rn '{esc}' .", "$ grep -rnF '{part}' .",
        "$ grep -rn \"{part}\" .",
        "$ git grep -nF '{part}'"]),
    ("verbatim", "words of the description", "note", ["{x}", "In short: {x}"]),
    # ---- an edit of a file that no command named and no output showed
    ("edit", "never read", "unread", [
        "$ sed -i 's/foo/bar/' {p}", "$ cat > {p} <<'EOF'\nx = 1\nEOF", "$ echo '# end' >> {p}",
        "$ python - <<'EOF'\np = '{p}'\ns = open(p).read()\nopen(p, 'w').write(s + 'b')\nEOF",
        "$ perl -pi -e 's/a/b/' {p}", "$ cd {d} && sed -i 's/a/b/' {b}",
        "$ printf 'x' | tee -a {p}",
        "$ python - <<'EOF'\nfrom pathlib import Path\nf = Path('{p}')\nf.write_text('x')\nEOF"]),
    # ---- talk of a hidden source, as it is mostly worded
    ("disclosure", "usual", "source", [
        "Pull request #{n} changes this function.", "The upstream fix is in this module.",
        "The reference patch does it here.", "According to the merged PR, one file changes.",
        "The gold patch edits this.", "I was given the final diff, so I know the place.",
        "As the actual fix shows, a check is missing.", "The hidden patch adds a branch.",
        "The official solution is smaller.", "Judging from the provided patch, it is here.",
        "The maintainers fixed this in #{n}.", "This landed upstream in commit {c}.",
        "$ git show {c}", "$ git cherry-pick {c}", "The PR diff touches one function.",
        "The reference solution also handles None.", "The ground truth patch does the same.",
        "Based on the privileged information I look here.", "The accepted fix is a one-liner.",
        "Following the merge request, I look at this.",
        "In the solution diff only this is touched.",
        "PR {n} already solves it.", "As fixed in GH-{n}, it needs a check.",
        "I have seen the patch, so I go there."]),
    # ---- peeking by history, or at a copy of the project
    ("history", "other commits", "peek", [
        "$ git log --all -p", "$ git log --all --oneline | head -20",
        "$ git log -p --branches -- {p}",
        "$ git log --remotes --oneline", "$ git log origin/main -3 -p",
        "$ git log HEAD..origin/master",
        "$ git --no-pager log -p HEAD..main -- {p}", "$ git diff HEAD origin/main",
        "$ git diff HEAD..origin/HEAD",
        "$ git diff origin/main -- {p}", "$ git show origin/main:{p}", "$ git show origin/master",
        "$ git show main:{p} | head -50", "$ git checkout origin/main -- {p}",
        "$ git checkout main",
        "$ git switch main", "$ git restore --source=origin/main {p}",
        "$ git fetch origin && git log FETCH_HEAD",
        "$ git fetch && git diff HEAD FETCH_HEAD", "$ git pull", "$ git reflog", "$ git log -g",
        "$ git fsck --lost-found", "$ git rev-list --all | head", "$ git for-each-ref",
        "$ git ls-remote origin", "$ git blame origin/main -- {p}", "$ git cherry-pick origin/main",
        "$ git grep -n foo origin/main", "$ git worktree add ../new origin/main",
        "$ git log @{{u}}",
        "$ git log --tags -p -1", "$ git stash list && git log --all -S'foo'",
        "$ git checkout FETCH_HEAD",
        "$ git merge origin/main", "$ cd {d} && git log --all -- {b}",
        "$ git -C . show origin/HEAD:{p}",
        "$ git log ORIG_HEAD -p", "$ git format-patch HEAD..origin/main --stdout",
        "$ git archive origin/main | tar x",
        "$ git log --oneline --graph --all", "$ git show $(git rev-list --all -n 1)",
        "$ git rev-parse origin/main | xargs git show", "$ git bundle create b --all",
        "$ cat .git/packed-refs", "$ cat .git/FETCH_HEAD", "$ git cat-file -p origin/main:{p}"]),
    ("history", "a copy of the project", "peek", [
        "$ pip download {k} --no-deps", "$ pip download {k}==9.9 -d /tmp/x",
        "$ python -m pip download {k}",
        "$ pip install -U {k} --target /tmp/new", "$ pip install --upgrade {k}",
        "$ pip install {k}==99.1",
        "$ cat /usr/lib/python3/dist-packages/{i}/__init__.py",
        "$ ls /opt/miniconda3/lib/python3.9/site-packages/{i}",
        "$ diff -r {i} /usr/local/lib/python3.11/site-packages/{i}",
        "$ git clone https://github.com/{r} /tmp/new",
        "$ git clone --depth 1 https://github.com/{r}.git",
        "$ curl -s https://github.com/{r}/pull/{n}.diff",
        "$ wget https://raw.githubusercontent.com/{r}/main/{p}",
        "$ curl -L https://api.github.com/repos/{r}/pulls/{n}", "$ gh pr view {n} --repo {r}",
        "$ gh pr diff {n}",
        "$ git remote add up https://github.com/{r} && git fetch up", "$ conda install {k}",
        "$ curl -O https://files.pythonhosted.org/packages/source/{k1}/{k}/{k}-9.9.tar.gz",
        "$ uv pip install {k}==9.9", "$ pip3 download --no-binary :all: {k}"]),
    # ---- what no rule can see: for the record only
    ("unseen", "unusual wordings", "source", [
        "I happen to have the outcome at hand.", "Spoiler: a check is missing in one place.",
        "I peeked at what came of this ticket.", "History tells how this went: a guard was added.",
        "We both know where this ends.", "As it will turn out, a single branch is missing.",
        "From what I was told beforehand, it is the cache.",
        "The notes that I got say it is the parser."]),
    ("unseen", "told in words", "source", [
        "The comparison has to be the other way round.", "One argument is not handed on.",
        "An early return is missing when nothing is left.", "The check must come before the loop.",
        "The hidden checks will try the empty case."]),
]  # fmt: skip


def plant(wording: str, values: dict) -> str:
    """Return a reply that says the sentence, or runs the command, and nothing else."""
    text = wording.removeprefix("$ ").format(**values)
    said, command = ("I go on from here.", text) if wording.startswith("$ ") else (text, "ls")
    return f"THOUGHT: {said}\n\n{FENCE}bash\n{command}\n{FENCE}"


def hidden_things(record: dict, messages: list[dict], draw: random.Random) -> dict[str, dict]:
    """Draw one hidden thing for each need, as {need: values of its wordings}."""
    chat = "\n".join(message["content"] for message in messages)
    files = parse_patch(record["patch"] or "")
    number = record["instance_id"].rsplit("-", 1)[-1]
    commit = "".join(draw.choices("0123456789abcdef", k=9)) + "a1"
    found = {"source": {"n": number, "c": commit}}
    found.update(_hidden_paths(files, messages, chat, draw))
    found.update(_hidden_names(files, chat, draw))
    found.update(_hidden_hunks(files, chat, draw))
    found.update(_hidden_lines(files, record, chat, draw))
    path = found.get("path", {}).get("p") or (files[0].path if files else "setup.py")
    repo = record["repo"]
    package = repo.split("/")[-1]
    folders = [re.sub("^(?:src|lib)/", "", file.path) for file in files]
    folders = [folder.split("/")[0] for folder in folders if "/" in folder]
    values = {**_path_values(path), "k": package, "k1": package[0], "r": repo, "n": number}
    found["peek"] = {**values, "i": (folders or [package])[0]}
    return found


def _path_values(path: str) -> dict:
    folder, _, base = path.rpartition("/")
    stem, _, extension = base.partition(".")
    half = max(len(base) // 2, 1)
    few = max(min(len(stem) - 1, 6), 4)
    middle = len(stem) // 2
    module = re.sub(r"^(?:src|lib)/", "", path.removesuffix(f".{extension}")).replace("/", ".")
    return {
        **{"p": path, "d": folder or ".", "b": base, "s": stem, "e": extension},
        **{"h1": base[:half], "h2": base[half:], "n": path.removesuffix(f".{extension}")},
        **{"g": stem[:few], "t": base[-len(extension) - few - 1 :]},
        **{"q": f"{stem[:middle]}?{stem[middle + 1 :]}.{extension}"},
        **{"m": module, "mf": module.rpartition(".")[0]},
    }


def _hidden_paths(files, messages, chat, draw) -> dict:
    """Draw a file whose name the chat never holds, and one that no command or output showed."""
    found = {}
    letters = re.sub(r"[\W_]", "", chat.lower())
    paths = []
    unread = []
    shown = "\n".join(message["content"] for message in messages[2:])
    for file in files:
        folder, _, base = file.path.rpartition("/")
        if base == "__init__.py" and folder.rsplit("/", 1)[-1].lower() in chat.lower():
            continue
        stem = re.sub(r"[\W_]", "", base.split(".")[0].lower())
        if folder and len(stem) > 3 and base not in chat and stem not in letters:
            paths.append(file.path)
        if base not in shown and file.old_path:
            unread.append(file.path)
    if paths:
        found["path"] = _path_values(draw.choice(paths))
        found["folder path"] = found["path"]
        if found["path"]["mf"]:
            found["module"] = found["path"]
    if unread:
        found["unread"] = _path_values(draw.choice(unread))
    return found


def _hidden_names(files, chat, draw) -> dict:
    """Draw a telling name of each source that the chat never holds."""
    added = []
    context = []
    headers = []
    for file in files:
        for hunk in file.hunks:
            added += [line[1:] for line in hunk_lines(hunk) if line[0] == "+"]
            context += [line[1:] for line in hunk_lines(hunk) if line[0] == " "]
            headers += re.findall(r"\bclass (\w+)", hunk.section_header)
    new = _telling_names(added, chat)
    near = _telling_names(context, chat) - new
    found = {}
    for need, names in (("added", new), ("context", near), ("header", set(headers))):
        names = sorted(name for name in names if name not in chat)
        if names:
            name = draw.choice(names)
            half = len(name) // 2
            pieces = {
                "x1": name[:half],
                "x2": name[half:],
                "x3": name[half],
                "x4": name[half + 1 :],
            }
            found[need] = {"x": name, **pieces}
    return found


def _telling_names(lines: list[str], chat: str) -> set[str]:
    code = "\n".join(re.sub(r"#.*|\"\"\".*", "", line) for line in lines)
    names = set(re.findall(r"[A-Za-z_]\w{5,}", code))
    return {
        name
        for name in names
        if re.search(r"[a-z]_[a-z]|[a-z][A-Z]", name) and name not in chat and not _common(name)
    }


def _common(name: str) -> bool:
    return name.startswith(("assert", "__", "setUp", "tearDown")) or hasattr(builtins, name)


def _hidden_hunks(files, chat, draw) -> dict:
    """Draw a hunk of a file that no command named and of which no line number was told."""
    hunks = []
    for file in files:
        base = file.path.rsplit("/", 1)[-1]
        commands = "\n".join(re.findall(r"```bash\n(.*?)\n```", chat, re.DOTALL))
        told = re.search(rf"{re.escape(base)}\W+(?:L|lines? )?\d", chat)
        if base in commands or told or "#L" in chat or not file.old_path:
            continue
        hunks += [(file.path, hunk) for hunk in file.hunks if hunk.source_start > 30]
    if not hunks:
        return {}
    path, hunk = draw.choice(hunks)
    start = hunk.source_start
    end = start + hunk.source_length - 1
    before = start - draw.randint(2, 8)
    return {
        "hunk": {
            **{"f": path, "b": path.rsplit("/", 1)[-1], "a": start, "z": end, "m": start + 3},
            **{"l": hunk.source_length, "u": before - 4, "v": before},
        }
    }


def _hidden_lines(files, record, chat, draw) -> dict:
    """Draw a line that is added, one with other names, an old one, and one of the notes."""
    squeezed = "".join(chat.split())
    added = []
    old = []
    for file in files:
        for hunk in file.hunks:
            for line in hunk_lines(hunk):
                text = line[1:].strip()
                shown = "".join(text.split()) in squeezed
                if shown or len(text) < 24 or not re.search(r"\w\W+\w+\W+\w", text):
                    continue
                if "'" in text or "\\" in text or "`" in text:
                    continue
                (added if line[0] == "+" else old).append(text)
    found = {}
    if added:
        line = draw.choice(added)
        found["added line"] = {"x": line}
        names = re.findall(r"[A-Za-z_]\w{2,}", line)
        if names and len(re.findall(r"\w+", line)) > 5:
            last = re.escape(names[-1])
            found["near line"] = {"near": re.sub(rf"\b{last}\b", "value", line)}
    codes = [line for line in old if re.search(r"[=(.\[]", line) and not line.startswith("#")]
    codes = [line for line in codes if '"' not in line and "$" not in line]
    if codes:
        line = draw.choice(codes)
        part = line[: int(len(line) * 0.7)].rstrip()
        found["old line"] = {"x": line, "esc": re.sub(r"([.\[\]*^$])", r"\\\1", line), "part": part}
    notes = [line.strip() for line in (record["description"] or "").splitlines()]
    notes = [
        line for line in notes if len(line.split()) > 7 and "".join(line.split()) not in squeezed
    ]
    if notes:
        found["note"] = {"x": draw.choice(notes)}
    return found
