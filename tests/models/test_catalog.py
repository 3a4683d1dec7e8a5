"""Fetching from the Hub, against a hub of our own on this machine that answers as the real one does."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import huggingface_hub
import pytest

from thoughtlens.errors import CheckpointError
from thoughtlens.models import catalog

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "evil.py": b"print('never fetched')"}


class FakeHub(BaseHTTPRequestHandler):
    """`owner/model` is public, `owner/gated` asks for a licence, everything else is missing."""

    asked: list[str] = []  # noqa: RUF012 (one server a test session)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        self.asked.append(path)
        if "owner/gated" in path:
            self.answer(403, X_Error_Code="GatedRepo")
        elif "owner/model" not in path:
            self.answer(401, X_Error_Code="RepoNotFound")
        elif "nonsense" in path:
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif "/tree/" in path:
            self.answer(200, json.dumps([self.entry(name) for name in FILES]).encode())
        elif path.startswith("/api/models/"):
            info = {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            self.answer(200, json.dumps(info).encode())
        else:
            content = FILES[path.rsplit("/", 1)[1]]
            self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def entry(self, name: str) -> dict:
        return {"type": "file", "path": name, "size": len(FILES[name]), "oid": hashlib.sha1(FILES[name]).hexdigest()}

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    api = huggingface_hub.HfApi(endpoint=address, token=False)
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    cache = {"cache_dir": tmp_path / "cache", "endpoint": address, "token": False}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: download(*a, **k, **cache))
    FakeHub.asked.clear()
    yield server
    server.shutdown()
    server.server_close()


def test_named_files_alone_are_fetched_and_the_commit_is_known(fake_hub):
    fetched = catalog.fetch("owner/model", "main", ("config.json", "model.safetensors"))
    assert fetched.commit == COMMIT
    assert sorted(path.name for path in fetched.folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not any("evil.py" in path for path in FakeHub.asked)


def test_what_was_fetched_is_found_again_without_a_network(fake_hub):
    first = catalog.fetch("owner/model", COMMIT, ("config.json",))
    fake_hub.shutdown()
    fake_hub.server_close()
    assert catalog.fetch("owner/model", COMMIT, ("config.json",)) == first


@pytest.mark.parametrize(
    ("repo", "revision", "words"),
    [
        ("owner/gated", None, "accept its licence"),
        ("owner/missing", None, "no model 'owner/missing'"),
        ("owner/model", "nonsense", "no revision 'nonsense'"),
        ("owner//model", None, "no model 'owner//model'"),
    ],
)
def test_refusals_end_in_one_sentence(repo, revision, words, fake_hub):
    with pytest.raises(CheckpointError) as caught:
        catalog.fetch(repo, revision, ("config.json",))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_out_of_reach_and_not_in_the_cache(fake_hub):
    fake_hub.shutdown()
    fake_hub.server_close()
    with pytest.raises(CheckpointError, match="there is no network"):
        catalog.fetch("owner/model", None, ("config.json",))
