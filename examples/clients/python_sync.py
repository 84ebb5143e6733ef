"""Deploy an adapter, talk to it, and see what it cost. No event loop needed.

Runs against the `loramux up` of this machine; elsewhere, set LORAMUX_TARGET and LORAMUX_API_KEY.

    python examples/clients/python_sync.py pirate acme/pirate-lora "How is the weather?"
"""

import sys

import loramux
from loramux import errors


def main(name: str, hub_repo: str, question: str) -> int:
    """Deploy `hub_repo` under `name`, or use the deployment that has the name, and ask it."""
    with loramux.SyncClient() as client:
        account = client.get_account().name
        try:
            client.create_deployment(name, hub_repo)
        except errors.AlreadyExistsError:
            print(f"{name} is deployed already")
        try:
            deployment = client.wait_until_running(
                f"{account}/{name}", on_change=lambda one: print("...", one.status_message), timeout=300
            )
        except loramux.DeploymentFailedError as failure:
            print(f"{name} does not run: {failure.message} ({failure.reason})")
            return 1
        stream = client.generate(
            deployment.name, messages=[{"role": "user", "content": question}], max_tokens=64, temperature=0.7
        )
        for chunk in stream:
            print(chunk.text, end="", flush=True)
        print(f"\n{stream.completion.finish_reason}, {stream.completion.cost.total_usd:f} USD")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], " ".join(sys.argv[3:])))
