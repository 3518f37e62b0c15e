"""Files and batches as OpenAI has them, answered by the server's rule when a batch is looked at."""

from __future__ import annotations

import json
import time

from common.demo.completions import count_tokens, whole_reply
from common.demo.faults import ERRORS, FAULTS, Reply, refusal, spoil
from common.demo.transport import to_json

BATCH_FAULTS = {
    "failed": "the batch fails as a whole, without any line",
    "expired": "half of its lines are done, the others expired",
    "cancelled": "half of its lines are done, of the others nothing is said",
    "held": "it stays in progress",
    "unsaid": "it is started, but the answer to that is a 500",
}
LINE_FAULTS = {
    "missing": "the line is not there",
    "double": "the line comes twice",
    "torn": "half a line",
    "unknown": "a line of somebody else's beside it",
    "other-model": "another model has answered",
}


class Desk:
    """The files and the batches of a server.

    `faults(batch, line)` names what befalls batch number `batch` (its custom_id is then None) or
    the line with a custom_id: a name of BATCH_FAULTS, of LINE_FAULTS, or of the server's FAULTS.
    """

    def __init__(self, server):
        self.server = server
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.lists = True
        self.says: tuple[int, object] | None = None  # status and body of all that it answers
        self.asked: list[str] = []  # custom_ids, in the order of the batches

    def answer(self, method: str, path: str, headers: dict, data: bytes) -> tuple[int, object]:
        """Return status and body of a request to /v1/files or /v1/batches."""
        server = self.server
        if server.key is not None and headers.get("authorization") != f"Bearer {server.key}":
            return ERRORS["401"][:2]
        if self.says is not None:
            return self.says
        if not server.takes_batches:
            return 404, {"detail": "Not Found"}
        _, _, kind, *rest = path.partition("?")[0].split("/")
        if kind == "files" and method == "POST":
            return 200, self._upload(headers, data)
        if kind == "files" and rest and rest[0] in self.files:
            return 200, self.files[rest[0]]
        if kind == "batches" and method == "POST":
            return self._start(json.loads(data))
        if kind == "batches" and not rest and not self.lists:
            return ERRORS["500"][:2]
        if kind == "batches" and not rest:
            return 200, {"object": "list", "data": list(self.batches.values()), "has_more": False}
        if kind == "batches" and rest[0] in self.batches:
            self._work(self.batches[rest[0]])
            return 200, self.batches[rest[0]]
        return 404, {"detail": "Not Found"}

    def _upload(self, headers: dict, data: bytes) -> dict:
        boundary = headers["content-type"].partition("boundary=")[2].encode()
        content = b""
        for part in data.split(b"--" + boundary)[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n")
            if b"filename=" in head:
                content = body[:-2]
        return {"id": self._keep(content), "object": "file", "bytes": len(content)}

    def _keep(self, content: bytes) -> str:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = content
        return file_id

    def _start(self, body: dict) -> tuple[int, dict]:
        rows = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        custom_ids = [row["custom_id"] for row in rows]
        models = {row["body"]["model"] for row in rows}
        is_right = len(set(custom_ids)) == len(rows) <= 50_000 and len(models) == 1
        if (
            not is_right
            or max(map(len, custom_ids)) > 64
            or any(r["body"].get("stream") for r in rows)
        ):
            return 400, {"error": {"message": "the file is not as a batch has to be"}}
        self.asked += custom_ids
        batch_id = f"batch_{len(self.batches) + 1}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "number": len(self.batches) + 1,
            "status": "validating",
            "created_at": int(time.time()),
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            **body,
        }
        if self._fault(self.batches[batch_id], None) == "unsaid":
            return ERRORS["500"][:2]
        return 200, self.batches[batch_id]

    def _work(self, batch: dict) -> None:
        """Bring a batch to its end, unless it is held."""
        fault = self._fault(batch, None)
        fault = None if fault == "unsaid" else fault
        if batch["status"] not in ("validating", "in_progress") or fault == "held":
            batch["status"] = batch["status"].replace("validating", "in_progress")
            return
        batch["status"] = fault or "completed"
        if fault == "failed":
            batch["errors"] = {"data": [{"code": "bad", "message": "the model is not for batches"}]}
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        done = rows[: len(rows) // 2] if fault else rows
        output = []
        errors = []
        for row in reversed(done):
            for line, is_error in self._lines(batch, row):
                (errors if is_error else output).append(line)
        if fault == "expired":
            error = {"code": "batch_expired", "message": "This request could not be executed."}
            for row in rows[len(done) :]:
                late = {"custom_id": row["custom_id"], "response": None, "error": error}
                errors.append(to_json(late))
        if output:
            batch["output_file_id"] = self._keep(b"\n".join(output) + b"\n")
        if errors:
            batch["error_file_id"] = self._keep(b"\n".join(errors) + b"\n")

    def _fault(self, batch: dict, custom_id: str | None) -> str | None:
        faults = self.server.batch_faults
        return faults(batch["number"], custom_id) if faults else None

    def _lines(self, batch: dict, row: dict) -> list[tuple[bytes, bool]]:
        """Return the lines that answer a request, and of each whether it is an error's."""
        custom_id = row["custom_id"]
        body = row["body"]
        fault = self._fault(batch, custom_id)
        result = {"id": f"line-{custom_id[:8]}", "custom_id": custom_id, "error": None}
        status = 200
        if fault in ERRORS:
            status, said, _ = refusal(
                {"fault": fault, "body": body, "headers": {"authorization": ""}}
            )
        else:
            most = body.get("max_tokens") or body.get("max_completion_tokens") or 0
            reply = self.server.reply(body)
            reply = reply if isinstance(reply, Reply) else Reply(reply)
            reply = spoil(
                reply, fault if fault in FAULTS else None, most, self.server.length_enough
            )
            model = "somebody/else" if fault == "other-model" else reply.model or body["model"]
            tokens = reply.usage or count_tokens(len(to_json(body)), reply, most)
            said = whole_reply(b"chatcmpl-%012d" % len(self.asked), model, reply, tokens)
        result["response"] = {"status_code": status, "request_id": "r", "body": said}
        line = to_json(result)
        somebody = to_json({**result, "custom_id": "somebody else's"})
        lines = {
            "missing": [],
            "double": [line, line],
            "torn": [line[: len(line) // 2]],
            "unknown": [somebody, line],
        }
        return [(one, status != 200) for one in lines.get(fault, [line])]
