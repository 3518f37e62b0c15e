"""Splitting a script as a shell would, its words in full, and the lines that it addresses."""

import pytest

from common.audit.shell import TO_THE_END, addressed_lines, expand_script, split_commands
from common.audit.texts import spoken_lines


def words(script):
    return [command.words for command in split_commands(script)]


@pytest.mark.parametrize("script, expected", [
    ('grep "cd " notes.txt', [["grep", "cd ", "notes.txt"]]),
    ("cat a | grep b && ls; pwd", [["cat", "a"], ["grep", "b"], ["ls"], ["pwd"]]),
    ("echo 'a && b' \"c | d\"", [["echo", "a && b", "c | d"]]),
    ("cat x # don't\nls", [["cat", "x"], ["ls"]]),
    ("sed -n '1,5p' a#b", [["sed", "-n", "1,5p", "a#b"]]),
    ("echo $((1<<2)) && ls", [["echo", "$((1<<2))"], ["ls"]]),
    ("echo $(python -c 'x')", [["echo", "$"], ["python", "-c", "x"]]),
    ("(cd a && ls)", [["cd", "a"], ["ls"]]),
    ("grep -n a \\\n  b", [["grep", "-n", "a", "b"]]),
    ("printf $'it\\'s' x", [["printf", "it\\'s", "x"]]),
])  # fmt: skip
def test_commands_are_split_as_a_shell_does(script, expected):
    assert words(script) == expected


def test_heredocs_are_kept_apart():
    first, second = split_commands("cat <<'EOF' > a.py && ls\nit's \"open\nEOF\npython a.py")[0:3:2]
    assert first.heredocs == ["it's \"open\n"] and first.written_files == ["a.py"]
    assert second.argv == ["python", "a.py"]
    tabs = split_commands("cat <<-END\n\tx\n\tEND\nls")
    assert tabs[0].heredocs == ["\tx\n"] and tabs[1].words == ["ls"]


@pytest.mark.parametrize(
    "script", ["cat <<EOF > a\nx", "echo 'never closed", 'sed "s/a/b/ x', "cat <<EOF"]
)
def test_what_a_shell_would_wait_for_is_an_error(script):
    with pytest.raises(ValueError):
        split_commands(script)


@pytest.mark.parametrize("script, program", [
    ("A=1 B='x y' python3 t.py", "python3"), ("timeout 60 make test", "make"),
    ("sudo -E env X=1 ls", "ls"),
    ("/usr/bin/python3 x", "python3"), ("xargs -0 grep a", "grep"), ("for f in a; do cat $f; done",
    "for"),
])  # fmt: skip
def test_the_program_is_found_behind_wrappers(script, program):
    assert split_commands(script)[0].program == program


# ---- words in full ----


@pytest.mark.parametrize("script", [
    "cat lib/core/a.py", "cat 'lib/core/a.py'", 'cat lib/"core"/a.py', "cat lib/co're/a'.py",
    "cat lib/core/\\a.py",
    "D=lib/core; cat $D/a.py", 'D=lib && F=core/a.py && cat "$D/${F}"',
    "export D=lib/core\ncat $D/a.py",
    "for f in b a c; do cat lib/core/$f.py; done", "cat lib/core/{a,b}.py",
    "cat {lib,src}/core/{b,a}.py",
    "cat $(echo lib/core/a.py)", "echo lib/core/a.py | xargs cat", "wc < lib/core/a.py",
    "echo x > lib/core/a.py", "grep -rn x --include=lib/core/a.py",
    "python - <<'EOF'\nd = 'lib/core'\nopen(f'{d}/a.py')\nEOF",
])  # fmt: skip
def test_a_path_in_pieces_is_said_in_full(script):
    commands, named = expand_script(script)
    said = "\n".join([script, *named, *(word for command in commands for word in command.words)])
    assert "lib/core/a.py" in said


@pytest.mark.parametrize("script, name", [
    ("git log -Sfloor_of", "floor_of"), ("grep -rn 'floor''_of'", "floor_of"),
    ("grep -rnE 'flo[o]r_of' .", "floor_of"), ("N=floor_of; grep -rn \"$N\" .", "floor_of"),
    ("A=floor; grep ${A}_of .", "floor_of"),
])  # fmt: skip
def test_a_name_in_pieces_is_said_in_full(script, name):
    assert name in expand_script(script)[1]


def test_a_value_that_breaks_the_script_is_left_out():
    assert "lib/a.py" in expand_script("M='a << b'; echo $M\ncat lib/a.py")[1]


def test_a_script_that_never_closes_names_nothing():
    assert expand_script("cat 'a/b.py") == ([], [])


def test_variables_that_feed_on_themselves_stay_small():
    assert sum(map(len, expand_script("A=ab; " + "A=$A$A; " * 500 + "cat $A")[1])) < 10**6


# ---- lines ----


@pytest.mark.parametrize("script, first, last", [
    ("sed -n '3,9p' a.py", 3, 9), ("sed -n '3,+6p' a.py", 3, 9), ("sed -n '3,$p' a.py",
    3, TO_THE_END),
    ("sed -ne 3,9p a.py", 3, 9), ("sed -i '3,9s/1/2/' a.py", 3, 9), ("sed -n '3{p;q}' a.py", 3, 3),
    ("nl -ba a.py | sed -n '3,9p'", 3, 9), ("cat a.py | head -9 | tail -n 7", 3, 9),
    ("head -n 9 a.py | tail -7", 3, 9), ("tail -n +3 a.py", 3, 23), ("awk 'NR>=3 && NR<=9' a.py",
    3, 9),
    ("awk 'NR==3,NR==9' a.py", 3, 9), ("awk 'FNR>=3{print} FNR==9{exit}' a.py", 3, 9),
    ("perl -ne 'print if 3..9' a.py", 3, 9), ("perl -ne 'print if $. >= 3 && $. <= 9' a.py", 3, 9),
    ("bat -r 3:9 a.py", 3, 9), ("bat --line-range=3:9 a.py", 3, 9), ("less +3 a.py", 3, 3),
    ("vim +3 a.py", 3, 3), ("git show HEAD:a.py | sed -n '3,9p'", 3, 9),
    ("git log -L3,9:a.py", 3, 9), ("git blame -L 3,+6 -- a.py", 3, 9), ("sed -n 3,9p < a.py", 3, 9),
    ("python -c \"print(open('a.py').readlines()[3:9])\"", 3, 9),
    ("python - <<'EOF'\nimport linecache\nlinecache.getline('a.py', 3)\nEOF", 3, 3),
    ("ruby -ne 'print if (3..9).include?($.)' a.py", 3, 9), ("ed -s a.py <<< '3,9p'", 3, 9),
    ("grep -n '' a.py | sed -n '3,9p'", 3, 9), ("F=a.py; sed -n '3,9p' $F", 3, 9),
])  # fmt: skip
def test_which_lines_are_addressed(script, first, last):
    found = addressed_lines(expand_script(script)[0])
    assert ("a.py", first, last) in [
        (file.removeprefix("./"), low, high) for file, low, high in found
    ]


@pytest.mark.parametrize("script", [
    "grep -n x a.py | sed -n '3,9p'", "ls -l a.py | head -5", "git log -5 -- a.py", "wc -l a.py",
    "find . -name a.py | head -3", "awk '{print $3}' a.py | sort -k 2",
    "sed -i 's/x = 3/x = 9/' a.py",
])  # fmt: skip
def test_numbers_that_count_something_else_are_no_lines(script):
    assert not [span for span in addressed_lines(expand_script(script)[0]) if 3 in span[1:]]


@pytest.mark.parametrize("text, expected", [
    ("see a/b.py:12", ("a/b.py", 12, 12)), ("`a/b.py` (line 12)", ("a/b.py", 12, 12)),
    ('File "/repo/b.py", line 88, in run', ("/repo/b.py", 88, 88)), ("b.py#L3", ("b.py", 3, 3)),
    ("In b.py, lines 12-20 loop.", ("b.py", 12, 20)), ("b.py(12) fails", ("b.py", 12, 12)),
    ("Line number 12 of b.py", ("", 12, 12)), ("lines 3 to 9", ("", 3, 9)),
])  # fmt: skip
def test_which_lines_a_text_speaks_of(text, expected):
    assert spoken_lines(text) == [expected]
    assert spoken_lines("b.py has 12 tests (12 pass), port: 80") == []
