"""Why an 8-bit base costs more on a CPU: one linear layer of large-v2's size, forward and backward, kept in three ways.

python tests/benchmarks/quantised_linear.py
"""

import time

import bitsandbytes
import torch
from torch.profiler import profile

POSITIONS, WIDTH, INNER, REPEATS = 265, 1280, 5120, 10  # 5.3 s of speech; the first layer of a feed-forward block


def main() -> None:
    torch.manual_seed(0)
    weights = torch.nn.Linear(WIDTH, INNER).state_dict()
    layers = {
        "bf16": torch.nn.Linear(WIDTH, INNER),
        "8bit": bitsandbytes.nn.Linear8bitLt(WIDTH, INNER, has_fp16_weights=False, threshold=6.0),
        "4bit": bitsandbytes.nn.Linear4bit(WIDTH, INNER, quant_type="nf4", compute_dtype=torch.bfloat16),
    }
    print("| kept in | forward, ms | backward, ms | of it copying and scaling weights |\n| --- | ---: | ---: | ---: |")
    for name, layer in layers.items():
        layer.load_state_dict(weights)
        layer = layer.bfloat16() if name == "bf16" else layer.to("cpu")  # noqa: PLW2901
        layer.requires_grad_(False)
        sound = torch.randn(1, POSITIONS, WIDTH, dtype=torch.bfloat16, requires_grad=True)
        layer(sound).sum().backward()
        forward = backward = float("inf")
        for _ in range(REPEATS):
            begun = time.perf_counter()
            heard = layer(sound)
            middle = time.perf_counter()
            heard.sum().backward()
            forward, backward = min(forward, middle - begun), min(backward, time.perf_counter() - middle)
        with profile() as record:
            layer(sound).sum().backward()
        spent = {event.key: event.self_cpu_time_total for event in record.key_averages()}
        unpacking = sum(
            spent.get(key, 0) for key in ("aten::copy_", "aten::mul_", "bitsandbytes::dequantize_4bit")
        ) / sum(spent.values())  # fmt: skip
        print(f"| {name} | {1000 * forward:.1f} | {1000 * backward:.1f} | {100 * unpacking:.0f} % |")


if __name__ == "__main__":
    main()
