import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from context_research.errors import UsageProblem
from context_research.models import hub
from context_research.settings.schema import CONFIGS, ModelSettings
from tests.support.settings import resolve_model

CONFIG = json.loads((CONFIGS / "models" / "tiny-qwen3" / "config.json").read_text())
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def problem(name, weights="hub", **keywords):
    """The one line that a user gets."""
    with pytest.raises(UsageProblem) as caught:
        hub.resolve(ModelSettings(name=str(name), weights=weights, **keywords))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    def make(config=CONFIG, weights=()):
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        for index, size in enumerate(weights):
            (tmp_path / f"model-{index}.safetensors").write_bytes(b"\0" * size)
        return tmp_path

    return make


def test_the_built_in_model_needs_no_network():
    tiny = resolve_model()
    assert tiny.path == CONFIGS / "models" / "tiny-qwen3"
    assert (tiny.vocabulary, tiny.max_length, tiny.dtype, tiny.revision) == (16384, 40960, "float32", None)
    assert tiny.label == f"tiny-qwen3 seeded:{tiny.weights_hash[:8]}"


def test_the_built_in_model_has_no_weights_on_the_hub():
    assert problem("tiny-qwen3").endswith("has no weights on the hub: use --weights=seeded")


@pytest.mark.parametrize(
    ("given", "size"),
    [
        pytest.param({"dtype": "float32"}, 2 * 4 * 2 * 64 * 4, id="tiny-fp32"),
        pytest.param({}, 4096, id="tiny-auto"),
        pytest.param({"dtype": "bfloat16"}, 2048, id="tiny-bf16"),
        pytest.param({"name": "Qwen/Qwen3-8B", "dtype": "bfloat16"}, 147456, id="qwen3-8b"),
        pytest.param({"name": "Qwen/Qwen3-8B"}, 147456, id="qwen3-8b-auto"),
    ],
)
def test_kv_bytes_per_token(given, size):
    assert resolve_model(**given).kv_bytes_per_token == size


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        pytest.param({"num_key_value_heads": None}, 2 * 4 * 4 * 64 * 4, id="multi-head"),
        pytest.param({"head_dim": None}, 2 * 4 * 2 * 64 * 4, id="head-size-from-hidden"),
        pytest.param({"torch_dtype": None}, 2048, id="no-dtype-is-bfloat16"),
        pytest.param({"dtype": "float16"}, 2048, id="new-key-of-transformers-5"),
    ],
)
def test_kv_bytes_follow_the_config(folder, changes, size):
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    assert resolve_model(str(folder(config))).kv_bytes_per_token == size


def test_weight_bytes_of_qwen3_8b():
    assert resolve_model("Qwen/Qwen3-8B", dtype="bfloat16").weight_bytes == pytest.approx(16.38e9, rel=0.01)


def test_tied_embeddings_count_once(folder):
    tied = resolve_model(str(folder(CONFIG | {"tie_word_embeddings": True}))).weight_bytes
    assert resolve_model().weight_bytes - tied == 16384 * 256 * 4


@pytest.mark.parametrize(("asked", "length"), [(None, 40960), (8192, 8192), (99999, 40960)])
def test_max_length_is_the_smaller_of_the_models_and_the_asked(asked, length):
    assert resolve_model(max_model_len=asked).max_length == length


def test_a_local_folder_with_weights(folder):
    path = folder(weights=[10, 20])
    found = hub.resolve(ModelSettings(name=str(path)))
    assert (found.path, found.revision) == (path, None)
    assert hub.download(found) is found


def test_a_local_folder_without_weights_is_refused_unless_they_are_made(folder):
    path = folder()
    assert problem(path) == f"{path} holds no *.safetensors: add them, or use --weights=seeded"
    assert resolve_model(str(path)).path == path


def test_a_local_folder_without_a_config_is_refused(tmp_path):
    assert problem(tmp_path).startswith(f"cannot read the model's config {tmp_path / 'config.json'}: ")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        pytest.param("{", "cannot read the model's config", id="no-json"),
        pytest.param('{"hidden_size": 1}', "lacks max_position_embeddings, vocab_size", id="not-a-decoder"),
        pytest.param("[]", "config", id="list"),
        pytest.param('{"text_config": null}', "config", id="null-text-config"),
    ],
)
def test_a_broken_config_is_named(folder, config, told):
    path = folder(config)
    said = problem(path, "seeded")
    assert str(path / "config.json") in said
    assert told in said


def test_the_language_part_of_a_multimodal_config_counts(folder):
    assert resolve_model(str(folder({"text_config": CONFIG, "model_type": "mm"}))).vocabulary == 16384


def test_the_hash_is_stable(folder):
    again = dict(reversed(CONFIG.items()))
    assert (
        resolve_model().weights_hash == resolve_model().weights_hash == resolve_model(str(folder(again))).weights_hash
    )
    assert resolve_model(max_model_len=64).weights_hash == resolve_model().weights_hash


def test_the_hash_differs_by_what_the_weights_are(folder):
    path = folder(weights=[10])
    kinds = [resolve_model(str(path), weights=kind).weights_hash for kind in ("hub", "seeded", "dummy")]
    other_config = resolve_model(str(folder(CONFIG | {"hidden_size": 512}))).weights_hash
    (path / "model-1.safetensors").write_bytes(b"more")
    more_weights = resolve_model(str(folder()), weights="hub").weights_hash
    assert len({*kinds, other_config, more_weights}) == 5


def test_the_hash_differs_by_the_seeded_loaders_version(monkeypatch):
    seeded, dummy = resolve_model().weights_hash, resolve_model(weights="dummy").weights_hash
    monkeypatch.setattr(hub, "SEEDED_VERSION", hub.SEEDED_VERSION + 1)
    assert resolve_model().weights_hash != seeded
    assert resolve_model(weights="dummy").weights_hash == dummy


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: the repository's name says what is wrong with it."""

    ERRORS = {  # noqa: RUF012
        "gated": (403, "GatedRepo", "Access is restricted"),
        "private": (401, "RepoNotFound", "Repository not found"),
        "absent": (404, "RepoNotFound", "Repository not found"),
        "token": (401, None, "Invalid credentials in Authorization header"),
        "bare": (404, "EntryNotFound", "Entry not found"),
        "disabled": (403, None, "Access to this resource is disabled."),
    }
    body = json.dumps(CONFIG).encode()

    def do_HEAD(self):
        _, _, repo, _, revision, *_ = self.path.split("/")
        if revision == "nowhere":
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        if repo in self.ERRORS:
            status, code, message = self.ERRORS[repo]
            return self._answer(status, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}))
        return self._answer(200, {"ETag": '"abc"', "X-Repo-Commit": COMMIT}, len(self.body))

    def do_GET(self):
        self._answer(200, {"ETag": '"abc"', "X-Repo-Commit": COMMIT}, len(self.body))
        self.wfile.write(self.body)

    def _answer(self, status, headers, length=0):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": length}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *_): ...


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """Points huggingface-hub, which reads its variables when first imported, at an address, with an empty cache."""

    def use(address):
        template = address + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("time.sleep", lambda _: None)  # its retries, 24 s in all

    return use


@pytest.fixture
def local_hub(endpoint):
    """A hub on this machine, spoken to by the real client."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        endpoint(f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        pytest.param(
            "org/gated", None, "model org/gated is gated: accept its terms on the hub and set HF_TOKEN", id="gated"
        ),
        pytest.param(
            "org/absent", None, "model org/absent is neither a folder here, nor in configs/models", id="absent"
        ),
        pytest.param("org/private", None, "or set HF_TOKEN if it is private", id="private"),
        pytest.param("org/good", "nowhere", "model org/good@nowhere has no such revision on the hub", id="revision"),
        pytest.param("org/token", None, "model org/token can't be fetched: Invalid credentials", id="wrong-token"),
        pytest.param(
            "org/disabled",
            None,
            "model org/disabled can't be fetched: ",
            id="disabled",
        ),
        pytest.param("org/bare", None, "model org/bare can't be fetched: ", id="no-config"),
        pytest.param("no//id at all", None, "check --model-name", id="no-id"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_fix(local_hub, name, revision, told):
    assert told in problem(name, revision=revision)


def test_a_model_of_the_hub_is_resolved_to_a_commit(local_hub):
    found = hub.resolve(ModelSettings(name="org/good", revision="main"))
    assert (found.revision, found.path, found.vocabulary) == (COMMIT, None, 16384)
    made = hub.resolve(ModelSettings(name="org/good", weights="seeded"))
    assert made.path.name == COMMIT
    assert json.loads((made.path / "config.json").read_text()) == CONFIG
    dummy = hub.resolve(ModelSettings(name="org/good", weights="dummy"))
    assert len({one.weights_hash for one in (found, made, dummy)}) == 3


def test_an_unreachable_hub_is_told_with_the_ways_round_it(endpoint):
    endpoint("http://127.0.0.1:9")
    told = problem("org/good")
    assert told.startswith("model org/good is not in the cache and the hub can't be reached")
    for way in ("HF_HOME", "--model-name", "--weights=seeded"):
        assert way in told


def test_off_line_is_told_without_asking(endpoint, monkeypatch):
    endpoint("http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not in the cache and the hub can't be reached" in problem("org/good")


@pytest.mark.parametrize("offline", [False, True], ids=["unreachable", "off-line"])
def test_weights_that_cannot_be_downloaded_are_told_in_one_line(local_hub, endpoint, monkeypatch, offline):
    found = hub.resolve(ModelSettings(name="org/good"))
    endpoint("http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UsageProblem, match=r"^model org/good\b") as caught:
        hub.download(found)
    assert "\n" not in str(caught.value)


def test_other_errors_are_left_alone():
    settings = ModelSettings(name="x")
    with pytest.raises(KeyError), hub._hub_problems(settings):
        raise KeyError("a mistake of ours")
