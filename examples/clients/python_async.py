"""Ask a base model and every running adapter the same thing at once, and watch the answers come.

Runs against the `loramux up` of this machine; elsewhere, set LORAMUX_TARGET and LORAMUX_API_KEY.

    python examples/clients/python_async.py "What is the capital of France?"
"""

import asyncio
import sys

import loramux
from loramux.deployment.v1 import deployment_pb2


async def ask(client: loramux.Client, model: str, question: str) -> None:
    """Stream one answer; lines of several models mix as their tokens arrive."""
    messages = [{"role": "user", "content": question}]
    async with client.generate(model, messages=messages, max_tokens=48, temperature=0) as stream:
        async for chunk in stream:
            print(f"{model:>30} | {chunk.text!r}")
    end = stream.completion
    print(f"{model:>30} = {end.usage.completion_tokens} tokens, {end.cost.total_usd:f} USD")


async def main(question: str) -> None:
    """Find the models, then ask them all."""
    async with loramux.Client() as client:
        models = [base.name for base in await client.list_base_models()]
        async for deployment in client.list_deployments():
            if deployment.state == deployment_pb2.Deployment.STATE_RUNNING:
                models.append(deployment.name)  # noqa: PERF401  # reads more plainly
        await asyncio.gather(*(ask(client, model, question) for model in models))


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is the capital of France?"))
