"""Loading: without loss from CTranslate2, exact at large-v2's shape, and clear about what cannot be loaded."""

import json

import numpy as np
import pytest
import torch
from conftest import BASE, attach, speech
from peft import LoraConfig
from transformers import WhisperConfig, WhisperForConditionalGeneration

from asr_lora.audio.features import FULL_FRAMES, log_mel
from asr_lora.config import AdapterSettings
from asr_lora.errors import ConfigError, DataError
from asr_lora.language import ForcedPrompt, Task, forced_prompt, missing_token, spoken_language, whisper_language
from asr_lora.model import ctranslate2_import
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.trainable import count_parameters
from asr_lora.model.whisper import Whisper, load_whisper, model_width

LARGE_V2 = dict(
    d_model=1280, encoder_layers=32, decoder_layers=32, encoder_attention_heads=20, decoder_attention_heads=20,
    encoder_ffn_dim=5120, decoder_ffn_dim=5120, vocab_size=51865, num_mel_bins=80, decoder_start_token_id=50258,
    pad_token_id=50257, bos_token_id=50257, eos_token_id=50257,
)  # fmt: skip


def test_import_from_ctranslate2_loses_nothing(ctranslate2_folder, base):
    variables = ctranslate2_import.read_variables(ctranslate2_folder / "model.bin")
    expected = ctranslate2_import.transformers_state(variables)
    state = base.core.state_dict()
    assert set(state) == {*expected, "proj_out.weight"}
    assert all(np.array_equal(state[name].numpy(), value.astype(np.float32)) for name, value in expected.items())
    assert count_parameters(base.core)[1] == 72_593_920  # whisper-base
    assert base.tokenizer.pad_token == "<|endoftext|>"  # without one, pipelines elsewhere refuse batches
    # Every number of the file is used: weights, and the zero k biases that CTranslate2 stores.
    floats = sum(value.size for name, value in variables.items() if value.ndim and name != "decoder/projection/weight")
    assert floats == 72_593_920 + (6 + 6 + 6) * 512


def test_it_says_what_ctranslate2_itself_says(ctranslate2_folder, base):
    import ctranslate2

    engine = ctranslate2.models.Whisper(str(ctranslate2_folder), compute_type="float32")
    features = log_mel(speech(), 80, FULL_FRAMES)[None].numpy()
    tokens = engine.generate(
        ctranslate2.StorageView.from_array(features), [base.prompt_tokens], beam_size=1, max_length=100
    )[0].sequences_ids[0]  # fmt: skip
    from asr_lora.decoding.search import decode_batch

    assert base.tokenizer.decode(tokens, skip_special_tokens=True).strip() == decode_batch(base, [speech()])[0]


@pytest.mark.parametrize("quantisation", ["int8", "int16", "float16", "bfloat16", "float32"])
def test_import_of_every_precision(tiny_folder, tmp_path, quantisation, monkeypatch):
    import ctranslate2

    monkeypatch.setenv("ASR_LORA_CACHE", str(tmp_path / "cache"))
    converter = ctranslate2.converters.TransformersConverter(str(tiny_folder), copy_files=["tokenizer.json"])
    converter.convert(str(tmp_path / "ct2"), quantization=quantisation)
    before = load_whisper(str(tiny_folder), ForcedPrompt("it")).core.state_dict()
    after = load_whisper(str(tmp_path / "ct2"), forced_prompt("Italian")).core.state_dict()
    steps = {"int8": 1 / 127, "int16": 1 / 1000, "float16": 1 / 1024, "bfloat16": 1 / 128, "float32": 0.0}
    for name, value in before.items():
        error = (after[name] - value).abs().max()
        assert error <= steps[quantisation] * value.abs().max() + 1e-7, name


def test_damaged_ctranslate2_model_is_one_sentence(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\x06\x00\x00\x00\x0c\x00WhisperSpec\x00\x03\x00\x00\x00\xff\x00\x00\x00")
    with pytest.raises(DataError, match=r"no config\.json"):
        load_whisper(str(tmp_path), ForcedPrompt("it"))
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="not a whole CTranslate2 model"):
        load_whisper(str(tmp_path), ForcedPrompt("it"))


def test_any_length_encoder_equals_the_original_at_30_seconds(base):
    features = log_mel(speech(), 80, FULL_FRAMES)[None]
    original = type(base.core.model.encoder).forward
    with torch.inference_mode():
        theirs = original(base.core.model.encoder, features).last_hidden_state
        assert torch.equal(base.encode(features), theirs)
        assert base.encode(features[..., :600]).shape == (1, 300, 512)


def test_lora_on_large_v2_is_the_published_size(tmp_path):
    with torch.device("meta"):
        core = WhisperForConditionalGeneration(WhisperConfig(**LARGE_V2))
    whisper = Whisper(core, core, None, "openai/whisper-large-v2", "nl")
    adapted = attach(whisper, AdapterSettings(rank=32, targets=("q_proj", "v_proj")))
    trainable, total = count_parameters(adapted.model)
    assert trainable == 15_728_640
    assert total - trainable == 1_543_304_960
    assert round(100 * trainable / total, 1) == 1.0
    for module in adapted.model.modules():  # only the adapter takes memory
        if hasattr(module, "lora_A"):
            module.lora_A.to_empty(device="cpu")
            module.lora_B.to_empty(device="cpu")
    save_weights(adapted, tmp_path / "adapter")
    size = sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    assert 62.9e6 < size <= 63e6
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "openai/whisper-large-v2"
    )


def test_adapter_folder_is_plain_peft(tiny_folder, tmp_path):
    from peft import PeftModel

    save_weights(
        attach(load_whisper(str(tiny_folder), ForcedPrompt("it")), AdapterSettings(rank=4)), tmp_path / "adapter"
    )
    model = PeftModel.from_pretrained(
        WhisperForConditionalGeneration.from_pretrained(tiny_folder), tmp_path / "adapter"
    )
    assert isinstance(model.peft_config["default"], LoraConfig)
    assert model.peft_config["default"].r == 4


def test_languages_by_name_and_code():
    assert [whisper_language(name) for name in ("Dutch", "nl", "flemish", " NL ", "nl-NL", "zh_CN")] == [
        "nl", "nl", "nl", "nl", "nl", "zh",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="did you mean 'dutch'"):
        whisper_language("Duch")
    with pytest.raises(ConfigError, match="no 'Klingon'"):
        whisper_language("Klingon")


def test_languages_that_whisper_does_not_have():
    assert [spoken_language(name) for name in ("fy", "FY", "fy-NL", "hsb", "nl", "Dutch", "nl-NL")] == [
        "fy", "fy", "fy", "hsb", "nl", "nl", "nl",
    ]  # fmt: skip
    assert missing_token("nl") is None
    assert "Whisper has no token for 'fy'" in missing_token("fy")
    assert "code of two letters" in missing_token("deu")
    for name in ("Dutsch", "Frisian", "Klingon", ""):
        with pytest.raises(ConfigError, match="Whisper has no"):
            spoken_language(name)
    with pytest.raises(ConfigError, match="did you mean 'dutch'"):
        spoken_language("Dutsch")


def test_a_forced_prompt_is_made_of_names():
    assert forced_prompt("Dutch") == forced_prompt("nl-NL", "dutch") == ForcedPrompt("nl")
    assert forced_prompt("fy-NL", "Dutch", Task.TRANSLATE) == ForcedPrompt("fy", "nl", Task.TRANSLATE)
    assert (forced_prompt("fy", "nl").forced_language, forced_prompt("it").forced_language) == ("nl", "it")
    assert forced_prompt("fy", "nl").options == ["--language", "fy", "--language-token", "nl"]
    assert forced_prompt("it").options == ["--language", "it"]


def test_a_borrowed_token(tiny_folder, tmp_path):
    whisper = load_whisper(str(tiny_folder), forced_prompt("fy", "Dutch"))
    assert whisper.prompt == ForcedPrompt("fy", "nl")
    assert whisper.prompt.forced_language == "nl"
    assert whisper.tokenizer.convert_ids_to_tokens(whisper.prompt_tokens) == [
        "<|startoftranscript|>", "<|nl|>", "<|transcribe|>", "<|notimestamps|>",
    ]  # fmt: skip
    wins = load_whisper(str(tiny_folder), forced_prompt("it", "es"))
    assert (wins.prompt.language, wins.core.generation_config.language) == ("it", "es")
    own = load_whisper(str(tiny_folder), forced_prompt("nl", "nl"))
    assert own.prompt == ForcedPrompt("nl")
    with pytest.raises(ConfigError, match=r"Whisper has no 'fy'\. Set model\.language_token, or --language-token"):
        forced_prompt("fy")
    with pytest.raises(ConfigError, match="language_token: Whisper has no 'fy'"):
        forced_prompt("fy", "fy")


def test_a_token_that_this_whisper_lacks(tiny_folder, tmp_path):
    """Cantonese has a token in large-v3 alone."""
    with pytest.raises(ConfigError, match=r"language: .* has no token for 'yue': set model\.language_token"):
        load_whisper(str(tiny_folder), ForcedPrompt("yue"))
    assert load_whisper(str(tiny_folder), forced_prompt("yue", "zh")).prompt.forced_language == "zh"
    with pytest.raises(ConfigError, match=r"language_token: .* has no token for 'yue'"):
        load_whisper(str(tiny_folder), forced_prompt("fy", "yue"))


def test_a_pipeline_elsewhere_is_forced_to_the_borrowed_token(base, tmp_path):
    from transformers import pipeline

    from asr_lora.decoding.search import decode_batch

    whisper = load_whisper(BASE, forced_prompt("fy", "es"))
    save_weights(whisper, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert (settings["language"], settings["task"]) == ("es", "transcribe")
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path / "model"), device="cpu")
    said = recognise({"raw": speech(), "sampling_rate": 16_000}, generate_kwargs={"num_beams": 1})["text"].strip()
    assert said == decode_batch(whisper, [speech()])[0]
    assert said != decode_batch(base, [speech()])[0]  # which is forced to Italian, as Whisper detects it


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "../nothing/here"])
def test_a_model_that_is_not_there(source):
    with pytest.raises(DataError, match="no model at"):
        load_whisper(source, ForcedPrompt("it"))


def test_a_folder_that_is_no_whisper(tmp_path):
    with pytest.raises(DataError, match="not a model folder"):
        load_whisper(str(tmp_path), ForcedPrompt("it"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="of type 'bert', not a Whisper"):
        load_whisper(str(tmp_path), ForcedPrompt("it"))


def test_an_adapter_on_the_wrong_base(tiny_folder, base, tmp_path):
    from asr_lora.model.adapters.merging import load_adapter

    save_weights(
        attach(load_whisper(str(tiny_folder), ForcedPrompt("it")), AdapterSettings(rank=4)), tmp_path / "adapter"
    )
    with pytest.raises(DataError, match="cannot be put on"):
        load_adapter(load_whisper(BASE, ForcedPrompt("it")), tmp_path / "adapter")


def test_width_without_weights(tiny_folder):
    assert model_width(BASE) == 512
    assert model_width(str(tiny_folder)) == 64


def test_no_layer_of_that_name(tiny_folder):
    with pytest.raises(ConfigError, match=r"adapter\.targets"):
        attach(load_whisper(str(tiny_folder), ForcedPrompt("it")), AdapterSettings(targets=("qq_proj",)))
