"""LoRA and its kin on a Whisper, by PEFT, which nothing else imports."""
