"""`python -m asr_lora` is `asr-lora`."""

from asr_lora.cli.verbs import main

main()
