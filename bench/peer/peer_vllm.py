"""vLLM as a peer: runs in its own environment, reads one command a line, answers with tokens a second and the tokens.

Imports nothing of ours: `python peer_vllm.py JOB.json`, where the job says folder, adapters and prompts.
"""

import json
import sys
import time
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    """Load once, then time each round that is asked for."""
    job = json.loads(Path(sys.argv[1]).read_text())
    lora = {"enable_lora": True, "max_loras": 8, "max_lora_rank": 16} if job["adapters"] else {}
    llm = LLM(
        job["base"],
        dtype="bfloat16",
        max_num_seqs=32,
        max_model_len=2048,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **lora,
    )
    requests = [LoRARequest(f"a{i}", i + 1, path) for i, path in enumerate(job["adapters"])]
    print("ready", flush=True)
    for line in sys.stdin:
        count, length, new = map(int, line.split())
        prompts = [{"prompt_token_ids": ids[:length]} for ids in job["prompts"][:count]]
        chosen = [requests[i % len(requests)] for i in range(count)] if requests else None
        sampling = SamplingParams(max_tokens=new, temperature=0.0, ignore_eos=True)
        started = time.perf_counter()
        outputs = llm.generate(prompts, sampling, lora_request=chosen, use_tqdm=False)
        seconds = time.perf_counter() - started
        token_ids = [list(one.outputs[0].token_ids) for one in outputs]
        answer = {"speed": sum(map(len, token_ids)) / seconds, "token_ids": token_ids}
        print(f"answer {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
