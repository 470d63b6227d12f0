"""LoRA and its variants on a Whisper, by PEFT, which no other folder imports."""
