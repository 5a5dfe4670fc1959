"""A small Hub on 127.0.0.1, kept in memory: accounts, commits, plain and LFS uploads, downloads, card validation.

    with LoopbackHub() as hub:
        HfApi(endpoint=hub.url, token=hub.token).upload_folder(...)
        hub.files["me/model"]["README.md"]

It answers what `huggingface_hub` asks it when a model is pushed and loaded, and can be told to refuse or hang up.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

USER = "reader"
PIPELINES = {"audio-classification", "automatic-speech-recognition", "feature-extraction"}
LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "other"}


class LoopbackHub:
    """The server and what it keeps.

    Args:
        lfs: Endings of the files that go by way of LFS; `()` sends all of them with the commit.
    """

    def __init__(self, *, lfs: tuple[str, ...] = (".safetensors", ".png")) -> None:
        self.lfs, self.token = lfs, "hf_loopback"
        self.files: dict[str, dict[str, bytes]] = {}
        self.heads: dict[str, str] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: list[tuple[str, int | None]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, request: str, *, status: int | None, times: int = 1) -> None:
        """Let the next requests that match a pattern (`POST .*/commit/`) fail; status `None` hangs up."""
        self.failures += [(request, status)] * times

    def failure(self, request: str) -> tuple[str, int | None] | None:
        found = next((entry for entry in self.failures if re.match(entry[0], request)), None)
        if found:
            self.failures.remove(found)
        return found

    def commit(self, repo: str, lines: list[dict]) -> str:
        """All files of a commit, or none."""
        files = dict(self.files[repo])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            else:
                assert line["key"] == "header", line["key"]
        self.files[repo] = files
        self.heads[repo] = hashlib.sha1(f"{self.heads[repo]}{sorted(files)}".encode()).hexdigest()
        return self.heads[repo]

    def blob(self, repo: str, path: str) -> str:
        """Name of a file's content: git's, or the SHA-256 of what is in LFS."""
        content = self.files[repo][path]
        if path.endswith(self.lfs):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        hub, request = self.hub, f"{self.command} {unquote(urlsplit(self.path).path)}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(request)
        failure = hub.failure(request)
        if failure and failure[1] is None:
            self.close_connection = True
            self.connection.close()
            return
        if failure:
            self.answer(failure[1], {"error": "refused by the test"})
            return
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, request):
                method(self, body, **match.groupdict())
                return
        self.answer(404, {"error": f"nothing at {request}"}, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, status: int, content: dict | list | bytes, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self.answer(401, {"error": "Invalid credentials"})
        return False

    def whoami(self, body: bytes) -> None:
        if self.allowed():
            self.answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {}})

    def create(self, body: bytes) -> None:
        if self.allowed():
            asked = json.loads(body)
            repo = f"{asked.get('organization') or USER}/{asked['name']}"
            status = 409 if repo in self.hub.files else 200
            self.hub.files.setdefault(repo, {})
            self.hub.private[repo] = asked.get("private") or asked.get("visibility") == "private"
            self.hub.heads.setdefault(repo, "0" * 40)
            self.answer(status, {"url": f"{self.hub.url}/{repo}", "name": repo})

    def validate(self, body: bytes) -> None:
        errors = [{"message": message} for message in card_errors(json.loads(body)["content"])]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, repo: str) -> None:
        if self.allowed():
            files = []
            for path in (file["path"] for file in json.loads(body)["files"]):
                mode = "lfs" if path.endswith(self.hub.lfs) else "regular"
                there = self.hub.blob(repo, path) if path in self.hub.files[repo] else None
                files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": there})
            self.answer(200, {"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        if self.allowed():
            answers = []
            for wanted in json.loads(body)["objects"]:
                entry = {"oid": wanted["oid"], "size": wanted["size"]}
                if wanted["oid"] not in self.hub.objects:
                    entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
                answers.append(entry)
            self.answer(200, {"transfer": "basic", "objects": answers})

    def put_object(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.answer(200, {})

    def commit(self, body: bytes, repo: str) -> None:
        if self.allowed():
            oid = self.hub.commit(repo, [json.loads(line) for line in body.splitlines()])
            self.answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def info(self, body: bytes, repo: str) -> None:
        if repo not in self.hub.files:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        names = [{"rfilename": path} for path in sorted(self.hub.files[repo])]
        self.answer(200, {"id": repo, "modelId": repo, "sha": self.hub.heads[repo], "siblings": names})

    def tree(self, body: bytes, repo: str) -> None:
        entries = []
        for path, content in sorted(self.hub.files[repo].items()):
            blob = self.hub.blob(repo, path)
            entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
            if path.endswith(self.hub.lfs):
                entry["lfs"] = {"oid": blob, "size": len(content), "pointerSize": 0}
            entries.append(entry)
        self.answer(200, entries)

    def resolve(self, body: bytes, repo: str, path: str) -> None:
        head = {"X-Repo-Commit": self.hub.heads.get(repo, "")}
        if path not in self.hub.files.get(repo, {}):
            code = "EntryNotFound" if repo in self.hub.files else "RepoNotFound"
            self.answer(404, {"error": code}, {**head, "X-Error-Code": code})
            return
        head |= {"ETag": f'"{self.hub.blob(repo, path)}"', "Content-Type": "application/octet-stream"}
        self.answer(200, self.hub.files[repo][path], head)


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_REPO}/preupload/main", _Handler.preupload),
    (rf"POST /api/models/{_REPO}/commit/main", _Handler.commit),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.put_object),
    (rf"GET /api/models/{_REPO}(?:/revision/\w+)?", _Handler.info),
    (rf"GET /api/models/{_REPO}/tree/\w+", _Handler.tree),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/\w+/(?P<path>.+)", _Handler.resolve),
]


def card_errors(content: str) -> list[str]:
    """What is wrong with a card's YAML block, by the rules the Hub documents for the fields that are used here."""
    block = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    if not block:
        return ["the card has no metadata"]
    data = yaml.safe_load(block[1])
    repo = r"[\w.-]+(/[\w.-]+)?"
    checks = {
        "license": data.get("license", "other") in LICENCES,
        "license_name": data.get("license") != "other" or re.fullmatch(r"[a-z0-9.-]+", data.get("license_name", "")),
        "pipeline_tag": data.get("pipeline_tag", "feature-extraction") in PIPELINES,
        "language": re.fullmatch(r"[a-z]{2,3}", data.get("language", "en")),
        "datasets": all(re.fullmatch(repo, name) for name in data.get("datasets", [])),
        "base_model": re.fullmatch(r"[\w.-]+/[\w.-]+", data.get("base_model", "a/b")),
        "tags": all(isinstance(tag, str) for tag in data.get("tags", [])),
    }
    for model in data.get("model-index", []):
        for result in model["results"]:
            checks["model-index"] = (
                {"type"} <= set(result["task"])
                and {"type", "name"} <= set(result["dataset"])
                and all({"type", "value"} <= set(metric) for metric in result["metrics"])
            )
    return [f"{name} must follow the Hub's rule, got {data.get(name)!r}" for name, fine in checks.items() if not fine]
