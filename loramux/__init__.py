"""loramux: the SDK and command line of the LoRA adapter server."""
