"""Models by name: a small server on this machine stands for the hub."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from diffjax.pretrained import hub

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
  "model_index.json": b"{}",
  "README.md": b"read me",
  "unet/config.json": b'{"a": 1}',
  "unet/weights.safetensors": b"full" * 1000,
  "unet/weights.fp16.safetensors": b"half",
  "vae/weights.fp16.safetensors": b"only half",
  "tokenizer/merges.txt": b"a b",
  "safety_checker/weights.safetensors": b"unused",
  "v1.safetensors": b"everything in one file",
  "unet/weights.bin": b"pickle",
}
KEPT = {
  "model_index.json", "unet/config.json", "unet/weights.safetensors", "vae/weights.fp16.safetensors",
  "tokenizer/merges.txt",
}  # fmt: skip


class Hub(http.server.BaseHTTPRequestHandler):
  """The parts of the hub's protocol that a download needs."""

  def log_message(self, *args):
    pass

  def answer(self, status, body=b"", **headers):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    if self.command == "GET":
      self.wfile.write(body)

  def do_GET(self):
    path = self.path.partition("?")[0].strip("/")
    if "gated/model" in path:
      return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
    if path in (
      "api/models/some/model",
      "api/models/some/model/revision/main",
      f"api/models/some/model/revision/{SHA}",
    ):
      known = {"id": "some/model", "sha": SHA, "siblings": [{"rfilename": name} for name in FILES]}
      return self.answer(200, json.dumps(known).encode(), Content_Type="application/json")
    if path.startswith(f"api/models/some/model/tree/{SHA}"):
      files = [{"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in FILES.items()]
      return self.answer(200, json.dumps(files).encode(), Content_Type="application/json")
    name = path.removeprefix(f"some/model/resolve/{SHA}/").removeprefix("some/model/resolve/main/")
    if name in FILES:
      return self.answer(200, FILES[name], ETag=f'"{etag(FILES[name])}"', X_Repo_Commit=SHA)
    code = "RevisionNotFound" if "some/model" in path else "RepoNotFound"
    self.answer(404, X_Error_Code=code, X_Error_Message="not found")

  do_HEAD = do_GET


def etag(data):
  return hashlib.sha1(data).hexdigest()


@pytest.fixture
def fetched(tmp_path):
  """fetched(source, stopped=False) -> what a process prints that fetches it from the server, or without one."""
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
  threading.Thread(target=server.serve_forever, daemon=True).start()

  def run(source, stopped=False):
    port = 9 if stopped else server.server_address[1]
    code = (
      "import sys\nfrom diffjax.pretrained import hub\n"
      "try: print('OK', hub.fetch(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__, error)"
    )
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    dropped = ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | settings
    done = subprocess.run([sys.executable, "-c", code, source], env=environment, capture_output=True, text=True)
    return done.stdout.strip()

  yield run
  server.shutdown()


@pytest.mark.slow
def test_a_model_is_downloaded_once_and_then_needs_no_network(fetched):
  status, folder = fetched("hub:some/model").split(" ", 1)
  assert status == "OK"
  there = {os.path.relpath(os.path.join(root, name), folder) for root, _, names in os.walk(folder) for name in names}
  assert there == KEPT
  with open(os.path.join(folder, "unet", "weights.safetensors"), "rb") as file:
    assert file.read() == FILES["unet/weights.safetensors"]
  assert fetched("hub:some/model", stopped=True) == f"OK {folder}"
  assert fetched(f"hub:some/model@{SHA}") == f"OK {folder}"


@pytest.mark.slow
def test_what_cannot_be_downloaded(fetched):
  assert fetched("hub:other/model").startswith("OSError there is no model other/model on the hub, or it is private; ")
  assert fetched("hub:some/model@old").startswith("OSError there is no model some/model@old on the hub")
  assert fetched("hub:gated/model").startswith("OSError hub:gated/model needs permission; ask for it at https://")
  lost = fetched("hub:some/model", stopped=True)
  assert lost.startswith("OSError hub:some/model cannot be downloaded (") and lost.endswith("give a downloaded folder.")


def test_names_and_missing_package(monkeypatch):
  for name in ("hub:", "hub:model", "hub:a/b/c", "hub:../model/x", "hub:owner/na me"):
    with pytest.raises(ValueError, match="names no model; write hub:owner/name"):
      hub.fetch(name)
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ImportError, match=r'pip install -e "\.\[hub\]", or download .*huggingface.co/some/model by hand'):
    hub.fetch("hub:some/model")


def test_of_shards_and_variants_the_full_weights_are_wanted():
  shards = [f"unet/w-{i:05d}-of-00002.safetensors" for i in (1, 2)] + ["unet/w.safetensors.index.json"]
  half = [f"unet/w.fp16-{i:05d}-of-00002.safetensors" for i in (1, 2)] + ["unet/w.safetensors.index.fp16.json"]
  assert hub.wanted(shards + half) == shards
  assert hub.wanted(half) == half
  assert set(hub.wanted(list(FILES))) == KEPT
