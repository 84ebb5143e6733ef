"""What a repo must hold to be an adapter's, and what is said of one that holds something else."""

import pytest

from services.common.errors import PreconditionError
from services.registry.admission.adapter_admission import _check_files
from services.registry.hub_reader import HubCommit, HubFile

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def refusal(*names: str) -> PreconditionError:
    with pytest.raises(PreconditionError) as caught:
        _check_files(HubCommit("acme/pirate", "c" * 40, {name: HubFile(1, "") for name in names}))
    return caught.value


def test_both_files_at_the_top_are_an_adapter_whatever_is_beside_them() -> None:
    names = (CONFIG, WEIGHTS, "training_args.bin", "optimizer.pt", "checkpoint-5/adapter_model.bin")
    _check_files(HubCommit("acme/pirate", "c" * 40, {name: HubFile(1, "") for name in names}))


@pytest.mark.parametrize("pickled", ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth"])
def test_weights_that_execute_code_are_refused_for_that(pickled: str) -> None:
    error = refusal(CONFIG, pickled, "training_args.bin")
    assert error.reason == "ADAPTER_PICKLE_ONLY"
    assert pickled in error.message


@pytest.mark.parametrize(
    ("names", "told"),
    [
        # A trainer's own pickles are not the adapter's weights (field report F10).
        ((CONFIG, "training_args.bin"), "training_args.bin"),
        ((CONFIG, "adapter_model-00001-of-00002.safetensors", "training_args.bin"), "unsharded"),
        ((CONFIG, "checkpoint-500/adapter_model.safetensors"), "its folder (checkpoint-500)"),
        ((CONFIG, "adapters.safetensors"), "MLX"),
        ((WEIGHTS,), "has no adapter_config.json"),
        (("config.json", "model.safetensors"), "model.safetensors"),
        (("README.md",), "no weights"),
        ((CONFIG, *(f"{number}.safetensors" for number in range(50))), ", ..."),
    ],
)
def test_what_is_there_instead_is_said_with_the_way_out(names: tuple[str, ...], told: str) -> None:
    error = refusal(*names)
    assert error.reason == "ADAPTER_FILES_MISSING"
    assert told in error.message
    assert len(error.message) <= 1_024
    assert error.metadata["repo"] == "acme/pirate"
