"""Where popular Whisper recipes go wrong: one regression test each."""

import copy

import pytest
import torch
from conftest import attach, speech

from asr_lora.audio.features import context_frames, log_mel
from asr_lora.config import AdapterSettings, Context, Quantise
from asr_lora.dataset.reading import read_split
from asr_lora.decoding.search import decode_batch
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.adapters.merging import load_adapter, merge_adapter
from asr_lora.model.trainable import require_gradients, train_everything, trainable_state
from asr_lora.model.whisper import MAX_TARGET_TOKENS, load_whisper
from asr_lora.system.processes import ProcessGroup
from asr_lora.training.batches import IGNORED, Batch, TrainingSet, collated
from asr_lora.training.learner import Learner

CPU = torch.device("cpu")
TEXTS = ["Prego, digitare la password seguita dal tasto cancelletto.", "Arrivederci."]


def collate(whisper, texts, seconds=2.0, context=Context.TRUE_LENGTH):
    features = log_mel(speech(seconds), whisper.mel_bins, context_frames(seconds, context))
    targets = []
    for text in texts:
        tokens = [*whisper.prompt_tokens, *whisper.text_tokens(text), whisper.end_token]
        targets.append(
            (tokens[:-1], [IGNORED] * (len(whisper.prompt_tokens) - 1) + tokens[len(whisper.prompt_tokens) :])
        )
    return Batch(features.expand(len(texts), -1, -1), None, *collated(targets))


def learner(whisper, **options):
    return Learner(whisper, ProcessGroup(0, 1, CPU), torch.float32, **options)


def target_tokens(*batches):
    return sum(int((batch.labels != IGNORED).sum()) for batch in batches)


def step_loss(whisper, *batches, **options):
    """Backward through a step; its mean loss."""
    return learner(whisper, **options).gradients(batches, tokens=target_tokens(*batches), seed=0, step=1)


@pytest.fixture
def tiny(tiny_folder):
    return load_whisper(str(tiny_folder), ForcedPrompt("it"))


def test_decoder_starts_once(base):
    batch = collate(base, TEXTS)
    start = base.core.config.decoder_start_token_id
    assert batch.decoder_inputs[:, :4].tolist() == [base.prompt_tokens] * 2
    assert (batch.decoder_inputs == start).sum(dim=1).tolist() == [1, 1]
    assert not (batch.labels == start).any()
    # What is learnt is the text and the end, nothing of the prompt.
    learnt = batch.labels[0][batch.labels[0] != IGNORED]
    assert base.tokenizer.decode(learnt) == f" {TEXTS[0]}<|endoftext|>"


def test_decoding_is_given_the_prompt_and_nothing_of_the_reference(base):
    given = []
    hook = base.core.model.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    try:
        decode_batch(base, [speech(3.0), speech(4.0)])
    finally:
        hook.remove()
    assert given[0] == [base.prompt_tokens] * 2
    assert base.tokenizer.decode(base.prompt_tokens) == "<|startoftranscript|><|it|><|transcribe|><|notimestamps|>"
    assert all(len(row) == 1 for step in given[1:] for row in step)


def test_accumulating_eight_batches_of_one_equals_one_batch_of_eight(tiny):
    texts = [f"{'parola ' * (n + 1)}numero {n}" for n in range(8)]  # of unlike length, so that a mean of means differs
    results = []
    for batches in ([collate(tiny, texts)], [collate(tiny, [text]) for text in texts]):
        whisper = train_everything(load_whisper(tiny.source, ForcedPrompt("it")))
        loss = step_loss(whisper, *batches)
        gradient = torch.cat([value.grad.flatten() for value in trainable_state(whisper.core).values()])
        results.append((loss, gradient))
    (one_loss, one), (eight_loss, eight) = results
    assert eight_loss == pytest.approx(one_loss, rel=1e-5)
    assert torch.allclose(one, eight, rtol=1e-3, atol=1e-6)


def test_the_end_is_learnt_although_pad_is_the_end_token(tiny):
    assert tiny.core.config.pad_token_id == tiny.end_token
    whisper = train_everything(tiny)
    batch = collate(whisper, TEXTS)  # the second row is mostly padding
    assert (batch.labels == whisper.end_token).sum(dim=1).tolist() == [1, 1]
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(trainable_state(whisper.core).values(), lr=3e-3)
    whisper.core.train()
    for _ in range(100):
        step_loss(whisper, batch)
        optimiser.step()
        optimiser.zero_grad()
    whisper.core.eval()
    with torch.inference_mode():
        logits = whisper.core(input_features=batch.features, decoder_input_ids=batch.decoder_inputs).logits
    for row in range(2):
        place = int((batch.labels[row] == whisper.end_token).nonzero())
        assert int(logits[row, place].argmax()) == whisper.end_token


def test_texts_over_the_target_length_are_left_out_and_named(base, demo_dataset):
    split = read_split(demo_dataset, "train").select(range(4))
    rows = split.rows.map(lambda row, i: {**row, "text": "lungo " * 500 if i == 2 else row["text"]}, with_indices=True)
    data = TrainingSet(type(split)(rows), base, max_seconds=30.0)
    assert len(data) == 3
    assert data.left_out == {f"text over {MAX_TARGET_TOKENS} tokens": [split.ids[2]]}
    assert all(len(base.prompt_tokens) + len(tokens) + 1 <= MAX_TARGET_TOKENS for tokens in data.tokens)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("fc1",)])
def test_every_adapter_has_a_gradient_at_the_first_step(tiny, checkpointing, targets):
    whisper = attach(tiny, AdapterSettings(rank=4, targets=targets))
    step_loss(whisper, collate(whisper, TEXTS), always_checkpoint=checkpointing)
    assert whisper.core.model.encoder.layers[0].gradient_checkpointing is checkpointing
    require_gradients(whisper.model)
    states = trainable_state(whisper.model)
    assert any(".encoder." in name for name in states)
    assert any(".decoder." in name for name in states)
    # B starts at zero, so at the first step A's gradient is zero and B's is not.
    assert all(float(value.grad.abs().sum()) > 0 for name, value in states.items() if "lora_B" in name)


def test_checkpointing_changes_no_gradient(tiny):
    gradients = []
    for checkpointing in (False, True):
        whisper = train_everything(load_whisper(tiny.source, ForcedPrompt("it")))
        step_loss(whisper, collate(whisper, TEXTS), always_checkpoint=checkpointing)
        gradients.append(torch.cat([value.grad.flatten() for value in trainable_state(whisper.core).values()]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_a_base_in_bf16_stays_in_bf16(tiny_folder):
    whisper = attach(load_whisper(str(tiny_folder), ForcedPrompt("it"), dtype=torch.bfloat16), AdapterSettings(rank=4))
    for name, value in whisper.model.named_parameters():
        assert value.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name


@pytest.mark.parametrize("quantise", [Quantise.INT8, Quantise.NF4])
def test_a_quantised_base_is_prepared_and_learns(tiny_folder, quantise):
    whisper = load_whisper(str(tiny_folder), ForcedPrompt("it"), quantise=quantise)
    whisper = attach(whisper, AdapterSettings(rank=4), quantised=True)
    norm = whisper.core.model.encoder.layer_norm.weight
    assert norm.dtype == torch.float32
    packed = whisper.core.model.encoder.layers[0].fc1.weight
    assert packed.dtype in (torch.int8, torch.uint8)
    whisper.model.train()
    step_loss(whisper, collate(whisper, TEXTS))
    require_gradients(whisper.model)


def test_merged_equals_unmerged_logits(base, tmp_path):
    torch.manual_seed(0)
    adapted = attach(load_whisper(base.source, ForcedPrompt("it")), AdapterSettings(rank=8))
    with torch.no_grad():
        for name, value in trainable_state(adapted.model).items():
            if "lora_B" in name:
                value.normal_(std=0.02)
    save_weights(adapted, tmp_path / "adapter")
    batch = collate(base, TEXTS)
    inputs = {"input_features": batch.features, "decoder_input_ids": batch.decoder_inputs}
    with torch.inference_mode():
        untouched = base.core(**inputs).logits
        loaded = load_adapter(load_whisper(base.source, ForcedPrompt("it")), tmp_path / "adapter")
        unmerged = loaded.model(**inputs).logits
        merged = merge_adapter(loaded)
        assert not any("lora" in name for name, _ in merged.core.named_parameters())
        together = merged.core(**inputs).logits
    assert (unmerged - untouched).abs().max() > 1.0  # the adapter does something
    assert torch.allclose(unmerged, together, atol=2e-3, rtol=0)


def test_generation_settings_survive_save_and_load(base, tmp_path):
    """A fully fine-tuned model, loaded by Transformers alone, still knows language and task and what to suppress."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    save_weights(base, tmp_path / "model")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model")
    settings, before = model.generation_config, base.core.generation_config
    assert (settings.language, settings.task, settings.forced_decoder_ids) == ("it", "transcribe", None)
    for name in ("suppress_tokens", "begin_suppress_tokens", "alignment_heads", "lang_to_id", "no_timestamps_token_id"):
        assert getattr(settings, name) == copy.deepcopy(getattr(before, name)), name
        assert getattr(settings, name) is not None, name
    waveform = speech()
    features = WhisperFeatureExtractor.from_pretrained(tmp_path / "model")(
        waveform, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    tokens = model.generate(features)  # nothing said of language or task here
    theirs = WhisperTokenizer.from_pretrained(tmp_path / "model").decode(tokens[0], skip_special_tokens=True)
    assert theirs.strip() == decode_batch(base, [waveform])[0]
    assert theirs.strip()
