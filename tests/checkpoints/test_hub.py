"""Fetching from the hub and sending to it, against a stand-in on this machine that speaks its protocol."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from keras import ops

from kerasllm import BertClassifier, BertConfig, BertEncoder, GPTCausalLM, GPTConfig
from kerasllm.checkpoints import push_model, resolve_directory
from kerasllm.errors import InputError
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.loading import load_tokenizer

SHAPE = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 10}
BERT = BertConfig(vocabulary_size=20, **SHAPE)


class Hub:
    """Repositories as dicts: {name: {revision: {path: bytes}}}, and what was asked for."""

    def __init__(self):
        self.repositories, self.requests, self.tokens = {}, [], set()

    def commit(self, name, revision):
        files = self.repositories[name][revision]
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """The requests that huggingface-hub makes to create, describe, send and fetch."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer({"error": code}, 404, X_Error_Code=code)

    def described(self, name, revision):
        """(files, commit) at a branch or commit; None where there is none."""
        branches = self.hub.repositories.get(name, {})
        for branch, files in branches.items():
            commit = self.hub.commit(name, branch)
            if revision in (branch, commit):
                return files, commit
        return None

    @property
    def hub(self):
        return self.server.hub

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?/?", path):
            name, revision = found[1], found[2] or "main"
            at = self.described(name, revision)
            if at is None:
                known = name in self.hub.repositories
                return self.missing("RevisionNotFound" if known else "RepoNotFound")
            files, commit = at
            if "/tree/" in path:
                entries = [{"type": "file", "path": f, "size": len(c), "oid": "0"} for f, c in files.items()]
                return self.answer(entries)
            siblings = [{"rfilename": file} for file in files]
            return self.answer({"id": name, "modelId": name, "sha": commit, "siblings": siblings})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            at = self.described(found[1], found[2])
            if at is None or found[3] not in at[0]:
                return self.missing("EntryNotFound")
            content = at[0][found[3]]
            return self.answer(
                content,
                ETag=f'"{hashlib.sha1(content).hexdigest()}"',
                X_Repo_Commit=at[1],
                Accept_Ranges="none",
            )
        return self.missing("EntryNotFound")

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        self.hub.requests.append((self.command, path))
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self.answer({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.repositories.setdefault(name, {"main": {}})
            return self.answer({"url": f"{self.server.address}/{name}", "id": name, "name": name})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/([^/]+)", path)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if not found:
            return self.missing("EntryNotFound")
        name, task, revision = found.groups()
        if task == "branch":
            self.hub.repositories[name].setdefault(revision, {})
            return self.answer({})
        if task == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self.answer({"files": modes})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.hub.repositories[name][revision][value["path"]] = base64.b64decode(value["content"])
        commit = self.hub.commit(name, revision)
        url = f"{self.server.address}/{name}/commit/{commit}"
        return self.answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def chunk(self):
        content = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return content


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in; huggingface-hub speaks to it and keeps its cache in a directory of the test's."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.address = Hub(), f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.hub
    server.shutdown()
    server.server_close()
    thread.join()


def weights(model):
    return {name: ops.convert_to_numpy(value) for name, value in model.named_variables().items()}


def same(first, second):
    return all(np.array_equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_there_and_back(hub):
    model = BertClassifier(BERT, label_names=["bad", "good"], seed=3)
    address = model.push_to_hub("me/judge", message="first")
    assert "/me/judge/commit/" in address
    sent = hub.repositories["me/judge"]["main"]
    assert sorted(sent) == ["README.md", "config.json", "model.safetensors"]
    again = BertClassifier.from_pretrained("me/judge")
    assert again.label_names == ("bad", "good") and same(model, again)


def test_an_encoder_brings_its_modules(hub):
    model = BertEncoder(BERT, pooling="max", projection_dim=3, seed=3)
    model.push_to_hub("me/encoder")
    assert {"1_Pooling/config.json", "2_Dense/model.safetensors"} < set(
        hub.repositories["me/encoder"]["main"]
    )
    again = BertEncoder.from_pretrained("me/encoder")
    assert again.pooling == "max" and same(model, again)


def test_a_revision_is_a_branch_of_its_own(hub):
    first, second = (BertClassifier(BERT, seed=seed) for seed in (1, 2))
    first.push_to_hub("me/judge")
    second.push_to_hub("me/judge", revision="second")
    assert same(BertClassifier.from_pretrained("me/judge"), first)
    assert same(BertClassifier.from_pretrained("me/judge", revision="second"), second)
    assert same(BertClassifier.from_pretrained("me/judge@second"), second)
    with pytest.raises(InputError, match="me/judge@third: no such directory, and the hub gave no such model"):
        BertClassifier.from_pretrained("me/judge@third")
    with pytest.raises(InputError, match="names a revision, and revision is 'x'"):
        BertClassifier.from_pretrained("me/judge@second", revision="x")


def test_a_run_is_sent_as_it_is(hub, tmp_path):
    """Card and tokenizer included, from the run's own directory; a tokenizer is sent with a model if it is given."""
    tokenizer = train_characters(["some text, no more"])
    model = GPTCausalLM(GPTConfig(vocabulary_size=20, end_token_id=1, **SHAPE), seed=0)
    model.save_pretrained(tmp_path / "run" / "model", tokenizer=tokenizer)
    (tmp_path / "run" / "model" / "README.md").write_text("# Mine\n")
    push_model(tmp_path / "run", "me/mine")
    sent = hub.repositories["me/mine"]["main"]
    assert sent["README.md"] == b"# Mine\n"
    assert {"generation_config.json", "tokenizer.json", "tokenizer_config.json"} < set(sent)
    assert load_tokenizer(resolve_directory("me/mine")).get_vocab() == tokenizer.get_vocab()
    model.push_to_hub("me/other", tokenizer=tokenizer)
    assert hub.repositories["me/other"]["main"]["tokenizer.json"] == sent["tokenizer.json"]
    with pytest.raises(InputError, match="there is no such directory"):
        push_model(tmp_path / "nowhere", "me/mine")


def test_only_what_is_needed_is_fetched(hub):
    """Never a pickle, a program, another format or a directory."""
    BertClassifier(BERT, seed=1).push_to_hub("me/judge")
    more = ["pytorch_model.bin", "modeling.py", "onnx/config.json", "tf_model.h5", "other.safetensors"]
    hub.repositories["me/judge"]["main"] |= dict.fromkeys(more, b"x")
    directory = resolve_directory("me/judge")
    fetched = {path.name for path in directory.rglob("*") if path.is_file()}
    assert fetched == {"config.json", "model.safetensors"}


def test_offline_the_cache_serves(hub, monkeypatch):
    from huggingface_hub import constants

    model = BertClassifier(BERT, seed=1)
    model.push_to_hub("me/judge")
    BertClassifier.from_pretrained("me/judge")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert same(BertClassifier.from_pretrained("me/judge"), model)
    with pytest.raises(InputError, match="the hub gave no such model") as refused:
        BertClassifier.from_pretrained("me/another")
    assert "\n" not in str(refused.value)
    assert len(hub.requests) == before


def test_no_permission_is_one_line(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(InputError, match=r"me/judge: cannot be sent to the hub .*HF_TOKEN") as refused:
        BertClassifier(BERT, seed=1).push_to_hub("me/judge")
    assert "\n" not in str(refused.value) and not hub.repositories
