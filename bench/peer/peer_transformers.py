"""transformers and PEFT as peers: `generate` on the base, and PEFT's mixed batch. One command a line, as peer_vllm."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    """Load once, then time each round that is asked for."""
    job = json.loads(Path(sys.argv[1]).read_text())
    model: Any = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.bfloat16)
    for number, path in enumerate(job["adapters"]):
        if number == 0:
            model = PeftModel.from_pretrained(model, path, adapter_name="a0")
        else:
            model.load_adapter(path, adapter_name=f"a{number}")
    print("ready", flush=True)
    for line in sys.stdin:
        count, length, new = map(int, line.split())
        ids = torch.tensor([one[:length] for one in job["prompts"][:count]])
        names = [f"a{i % len(job['adapters'])}" for i in range(count)] if job["adapters"] else None
        more = {} if names is None else {"adapter_names": names}
        started = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                **more,
            )
        seconds = time.perf_counter() - started
        token_ids = output[:, length:].tolist()
        answer = {"speed": sum(map(len, token_ids)) / seconds, "token_ids": token_ids}
        print(f"answer {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
