"""Plain attention says what the fused kernel says, its gradients are as near, and dropout drops what it should."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from asr_lora.model.cpu import PLAIN_POSITIONS, Dropout, attention, draw_dropout_quickly


class Layer(torch.nn.Module):
    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


def tensors(queries: int, positions: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(2, queries, 4, 16), (2, positions, 4, 16), (2, positions, 4, 16)]
    return [torch.randn(shape).bfloat16().transpose(1, 2).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(
    ("queries", "positions", "is_causal"),
    [(150, 150, False), (20, 20, True), (20, 150, False), (1, 20, True), (PLAIN_POSITIONS + 1, 9, False)],
)
@pytest.mark.parametrize("scaling", [None, 1.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_it_agrees_with_the_fused_kernel(queries, positions, is_causal, scaling, autocast):
    layer = Layer(is_causal)
    ours, theirs, exact = (tensors(queries, positions) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        said, nothing = attention(layer, *ours, None, scaling=scaling)
        wanted, _ = sdpa_attention_forward(layer, *theirs, None, scaling=scaling)
    truth, _ = sdpa_attention_forward(layer, *(value.float() for value in exact), None, scaling=scaling)
    assert nothing is None
    assert said.dtype is torch.bfloat16
    assert said.shape == wanted.shape
    assert said.is_contiguous()
    weight = torch.randn(truth.shape)
    for output in (said, wanted, truth):
        (output * weight).sum().backward()
    pairs = [
        (said, wanted, truth),
        *zip(*([value.grad for value in side] for side in (ours, theirs, exact)), strict=True),
    ]
    for mine, fused, true in pairs:
        off, fused_off = ((value.float() - true).norm() / true.norm() for value in (mine, fused))
        assert off < max(0.02, 3 * fused_off)


def test_mixed_types_are_left_to_autocast():
    """As over an 8-bit base, whose layers answer in bf16 where activations stick out, and else in float32."""
    layer, (query, key, value) = Layer(False), tensors(1, 5)
    with torch.autocast("cpu", torch.bfloat16):
        said, _ = attention(layer, query, key.float(), value.float(), None)
    assert torch.allclose(said.float(), attention(layer, query, key, value, None)[0].float(), atol=0.02)


def test_a_mask_is_heeded():
    layer, (query, key, value) = Layer(False), tensors(3, 5)
    hidden = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    hidden[..., 3:] = False
    said, _ = attention(layer, query, key, value, hidden)
    wanted, _ = attention(layer, query, key[:, :, :3], value[:, :, :3], None)
    assert torch.allclose(said, wanted, atol=0.02)


@pytest.mark.parametrize("chance", [0.05, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean_and_repeats(chance, dtype):
    dropout, values = Dropout(chance), torch.ones(301, 1001, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    said = dropout(values)
    said.sum().backward()
    assert float((said == 0).float().mean()) == pytest.approx(chance, abs=0.005)
    assert float(said.detach().float().mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(values.grad, said.detach())
    torch.manual_seed(1)
    assert torch.equal(dropout(values), said)
    assert not torch.equal(dropout(values), said)
    assert torch.equal(dropout.eval()(values), values)


def test_dropout_is_replaced_wherever_it_stands():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout(0.3)), torch.nn.Dropout(0))
    draw_dropout_quickly(model.eval())
    assert isinstance(model[1][0], Dropout)
    assert model[1][0].p == 0.3
    assert not model[1][0].training
    assert torch.equal(model(torch.ones(3, 2)), model(torch.ones(3, 2)))
