"""A small Hugging Face Hub on loopback, and datasets in the real schemas for it.

    with FakeHub(folder, latency_s=0.03) as hub:   # serves folder/<owner>/<name>/... as datasets
        run(..., env={"HF_ENDPOINT": hub.url})
        hub.requests                # [(method, path, (start, end) or None, status, bytes sent)]

File requests answer with a redirect to another path, as the real Hub does with its CDN.
`hub.faults` {kind: share} makes some of them go wrong: "503", "429" (with Retry-After: 0), "cut"
(the connection closes half way), "short" (a smaller body, announced as such), "whole" (the range
is ignored), "stall" (half a body, then silence).
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from common.sampling.dataset import needed_leaves

TRAJECTORIES = pa.schema(
    [
        ("instance_id", pa.string()),
        ("repo", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("trajectory_format", pa.string()),
        ("exit_status", pa.string()),
        ("duration_sec", pa.float64()),
    ]
)


class FakeHub:
    """Serves `folder`. `token`: the only one that is accepted; `gated`: names that are gated."""

    def __init__(self, folder: Path, *, latency_s=0.0, token=None, gated=(), seed=0):
        self.folder = Path(folder)
        self.latency_s = latency_s
        self.token = token
        self.gated = gated
        self.public = False  # no token is asked for; a wrong one is refused all the same
        self.faults: dict[str, float] = {}
        self.requests: list[tuple] = []
        self.under_way = 0  # a client may have a body before its request is in the list
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.stall_s = 30.0
        self.dies_after = float("inf")  # requests after which nothing is answered well
        self.commits: dict[str, str] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name: str) -> str:
        """Return the commit of a dataset: a digest of its files, made once."""
        if name not in self.commits:
            sizes = {path.as_posix(): path.stat().st_size for path in self.files(name)}
            self.commits[name] = hashlib.sha1(repr(sizes).encode()).hexdigest()
        return self.commits[name]

    def files(self, name: str) -> list[Path]:
        return sorted(path for path in (self.folder / name).rglob("*") if path.is_file())

    def settle(self) -> None:
        """Wait until every request that was answered is in the list."""
        while self.under_way:
            time.sleep(0.001)

    def forget(self) -> None:
        """Empty the list of requests."""
        self.settle()
        self.requests.clear()

    def sent(self, kind: str = "/blob/") -> int:
        """Return the bytes of bodies sent for paths that hold `kind`."""
        self.settle()
        return sum(sent for _, path, _, _, sent in self.requests if kind in path)

    def ranges(self) -> list[str]:
        """Return the paths of the byte ranges that were served whole."""
        found = []
        for _, path, span, status, sent in self.requests:
            if span and status == 206 and sent == span[1] - span[0]:
                found.append(path)
        return found

    def pick_fault(self, kinds: tuple) -> str | None:
        with self.lock:
            draw = self.chance.random()
        for kind in kinds:
            draw -= self.faults.get(kind, 0)
            if draw < 0:
                return kind
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: FakeHub

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:  # a client that was killed, or went away from a fault
            self.close_connection = True

    def do_GET(self):
        with self.hub.lock:
            self.hub.under_way += 1
        time.sleep(self.hub.latency_s)
        self.span = None
        self.sent = 0
        self.status = 0
        try:
            self.answer(unquote(urlsplit(self.path).path))
        finally:
            path = unquote(urlsplit(self.path).path)
            self.hub.requests.append((self.command, path, self.span, self.status, self.sent))
            with self.hub.lock:
                self.hub.under_way -= 1

    do_HEAD = do_POST = do_GET

    def answer(self, path: str) -> None:
        fault = self.hub.pick_fault(("503", "429"))
        if len(self.hub.requests) >= self.hub.dies_after:
            fault = "429"
        if fault:
            headers = {"Retry-After": "0"} if fault == "429" else {}
            return self.reply(int(fault), {"error": "busy"}, headers)
        if info := re.fullmatch(r"/api/datasets/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", path):
            if self.may(info[1], info[2], contents=False):
                self.reply(200, {"id": info[1], "sha": self.hub.commit(info[1]), "siblings": []})
        elif tree := re.fullmatch(r"/api/datasets/([\w.-]+/[\w.-]+)/tree/([^/]+)/?(.*)", path):
            if self.may(tree[1], tree[2], contents=False):
                self.listing(tree[1], tree[2], tree[3])
        elif file := re.fullmatch(r"/datasets/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            if self.may(file[1], file[2], contents=True):
                self.redirect(file[1], file[3])
        elif path.startswith("/blob/"):
            self.blob(self.hub.folder / path.removeprefix("/blob/"))
        else:
            self.reply(404, {"error": "not found"})

    def may(self, name: str, revision: str | None, contents: bool) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.hub.token and given and given != self.hub.token:
            message = "Invalid credentials in Authorization header"
            self.reply(401, {"error": message}, {"X-Error-Message": message})
        elif not (self.hub.folder / name).is_dir() or self.needs_token(given):
            self.reply(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif contents and name in self.hub.gated:
            self.reply(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif revision not in (None, "main", self.hub.commit(name)):
            self.reply(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            return True
        return False

    def needs_token(self, given: str) -> bool:
        return bool(self.hub.token) and not given and not self.hub.public

    def entries(self, name: str) -> list[dict]:
        found = []
        for path in self.hub.files(name):
            place = path.relative_to(self.hub.folder / name).as_posix()
            size = path.stat().st_size
            found.append({"type": "file", "oid": "0" * 40, "size": size, "path": place})
        return found

    def redirect(self, name: str, file: str) -> None:
        path = self.hub.folder / name / file
        if not path.is_file():
            return self.reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        headers = {
            "Location": f"{self.hub.url}/blob/{name}/{file}",
            "X-Repo-Commit": self.hub.commit(name), "X-Linked-Size": str(path.stat().st_size),
            "X-Linked-Etag": '"0"', "ETag": '"0"',
        }  # fmt: skip
        self.reply(302, None, headers)

    def listing(self, name: str, revision: str, folder: str, page: int = 1000) -> None:
        query = parse_qs(urlsplit(self.path).query)
        entries = self.entries(name)
        depth = len(Path(folder).parts)
        if query.get("recursive", ["false"])[0].lower() != "true":
            parents = {"/".join(Path(entry["path"]).parts[: depth + 1]) for entry in entries}
            entries = [entry for entry in entries if entry["path"] in parents]
            for path in sorted(parents - {entry["path"] for entry in entries}):
                entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        if folder:
            entries = [entry for entry in entries if entry["path"].startswith(folder + "/")]
        start = int(query.get("cursor", ["0"])[0])
        tree = f"{self.hub.url}/api/datasets/{name}/tree/{revision}"
        more = f"{tree}?recursive=true&cursor={start + page}"
        headers = {"Link": f'<{more}>; rel="next"'} if start + page < len(entries) else {}
        self.reply(200, entries[start : start + page], headers)

    def blob(self, path: Path) -> None:
        size = path.stat().st_size
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start = int(span[1]) if span else 0
        end = min(int(span[2]) + 1, size) if span else size
        fault = self.hub.pick_fault(("cut", "short", "whole", "stall"))
        if fault == "whole":
            start = 0
            end = size
            span = None
        self.span = (start, end)
        with open(path, "rb") as file:
            file.seek(start)
            body = file.read(end - start)
        half = body[: len(body) // 2]
        if fault == "short":
            body = half
            end = start + len(half)
        self.status = 206 if span else 200
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in ("cut", "stall"):
            body = half
            self.close_connection = True
        for begin in range(0, len(body), 1 << 20):
            self.wfile.write(body[begin : begin + (1 << 20)])
            self.sent += len(body[begin : begin + (1 << 20)])
        if fault == "stall":
            self.wfile.flush()
            time.sleep(self.hub.stall_s)

    def reply(self, status: int, value: object, headers: dict | None = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.status = status
        self.send_response(status)
        length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, text in (length | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.sent = len(body)


# --------------------------------------------------------------------------- data in both schemas


def trajectory(instance: int, rollout: int, turns: int = 6, characters: int = 300) -> list[dict]:
    """Return a chat of `turns` assistant turns; as in real ones, rollouts differ in little."""
    chance = random.Random(f"{instance}/{rollout}")
    words = [f"word{number}" for number in range(200)]
    common = " ".join(random.Random(instance).choices(words, k=characters // 8))
    messages = [
        {"role": "system", "content": "You fix issues. One bash block with one command."},
        {"role": "user", "content": f"Issue {instance}: the count is wrong. {common}"},
    ]
    for turn in range(turns):
        command = f"sed -n {chance.randrange(999)},+9p src/part{chance.randrange(9)}.py"
        reply = f"THOUGHT: step {turn}.\n\n```bash\n{command}\n```"
        messages.append({"role": "assistant", "content": reply})
        seen = f"Observation: {chance.getrandbits(characters * 2):x} {common}"
        messages.append({"role": "user", "content": seen})
    return messages


def pull_request(instance: int, characters: int = 300) -> dict:
    """A PR record of the real schema, with the columns that prompt.py has no use for."""
    noise = f"{random.Random(instance).getrandbits(characters * 4):x}"
    path = f"src/part{instance % 9}.py"
    return {
        "instance_id": f"acme__repo{instance % 7}-{instance}",
        "repo": f"acme/repo{instance % 7}",
        "base_commit": f"{instance:040x}",
        "created_at": 1_600_000_000_000 + instance,
        "language": ("python", "go", "rust")[instance % 3],
        "license": "MIT",
        "interface": "",
        "problem_statement": f"Issue {instance}: the count is wrong. {noise}",
        "pr_description": f"Fix {instance}",
        "patch": f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"
        f"@@ -1 +1 @@\n-{noise}\n+fixed\n",
        "test_patch": "",
        "image_name": f"image-{instance}",
        "FAIL_TO_PASS": [f"test_{noise}"],
        "PASS_TO_PASS": [f"test_{noise}_{number}" for number in range(20)],
    }


def column_bytes(folder: Path, columns, groups: set | None = None) -> int:
    """Return the compressed bytes of these columns of a dataset's row groups, or of some."""
    total = 0
    for path in folder.rglob("*.parquet"):
        footer = pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            if groups is None or (path.relative_to(folder).as_posix(), group) in groups:
                for leaf in needed_leaves(footer, columns):
                    total += footer.row_group(group).column(leaf).total_compressed_size
    return total


def write_datasets(
    folder: Path,
    *,
    instances: int,
    rollouts: int = 10,
    files: int = 3,
    group_rows: int = 40,
    characters: int = 300,
) -> None:
    """Write <folder>/acme/trajectories and /prs, each data/train-*.parquet.

    The rollouts of an instance lie side by side.
    """
    share = -(-instances // files)
    for number in range(files):
        members = range(number * share, min((number + 1) * share, instances))
        records = [pull_request(instance, characters) for instance in members]
        rows = []
        for instance, record in zip(members, records):
            for rollout in range(rollouts):
                ids = {"instance_id": record["instance_id"], "repo": record["repo"]}
                messages = trajectory(instance, rollout, characters=characters)
                more = {"trajectory_format": "mini-swe-agent-1", "exit_status": "submitted"}
                rows.append({**ids, "messages": messages, **more, "duration_sec": float(rollout)})
        tables = {
            "trajectories": (pa.Table.from_pylist(rows, TRAJECTORIES), group_rows),
            "prs": (pa.Table.from_pylist(records), max(1, group_rows // 4)),
        }
        for name, (table, row_group_size) in tables.items():
            path = Path(folder, "acme", name, "data", f"train-{number:05d}-of-{files:05d}.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, row_group_size=row_group_size)
