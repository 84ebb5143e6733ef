"""What a base model is refused with that the engine cannot compute."""


class UnsupportedModelError(Exception):
    """The model's attention needs something that paged attention does not do."""
