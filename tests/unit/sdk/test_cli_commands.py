"""The commands, in this process, against a gateway that plays a script."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loramux import profile
from loramux.account.v1 import account_pb2, usage_pb2
from loramux.cli.main import app
from loramux.deployment.v1 import deployment_pb2
from services.common import errors as service_errors
from tests.support.scripted_gateway import ScriptedGateway, chunk, completion

COMMANDS = [
    "up", "hub", "models", "deploy", "chat", "generate", "usage", "bill", "deployments list", "deployments show",
    "deployments update", "deployments delete", "keys list", "keys create", "keys revoke", "account create",
    "account credit", "account show",
]  # fmt: skip


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedGateway]:
    monkeypatch.setenv("LORAMUX_HOME", str(tmp_path))
    for name in ("LORAMUX_TARGET", "LORAMUX_API_KEY", "LORAMUX_OPERATOR_KEY", "LORAMUX_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedGateway() as gateway:
        profile.save(profile.Profile(gateway.target, "lmx_user", "lmx_operator", "http://hub"))
        yield gateway


def run(command: str, *, stdin: str | None = None, status: int = 0) -> tuple[str, str]:
    """Returns stdout and stderr. Whatever happens, no traceback is shown."""
    result = CliRunner().invoke(app, command.split(), input=stdin)
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def deployed(state: deployment_pb2.Deployment.State, **fields: object) -> deployment_pb2.Deployment:
    return deployment_pb2.Deployment(name="acme/pirate", state=state, **fields)  # type: ignore[arg-type]


def watched(*deployments: deployment_pb2.Deployment) -> list[deployment_pb2.WatchDeploymentResponse]:
    return [deployment_pb2.WatchDeploymentResponse(deployment=one) for one in deployments]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(command: str) -> None:
    out, _ = run(f"{command} --help")
    assert "Usage" in out


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "deploy",
        "deploy a",
        "generate",
        "models --nonsense",
        "usage -n 0",
        "account credit acme much",
    ],
)
def test_wrong_usage_ends_with_2(gateway: ScriptedGateway, command: str) -> None:
    run(command, status=2)
    assert gateway.calls == []


def test_models_shows_prices_by_the_million(gateway: ScriptedGateway) -> None:
    base = deployment_pb2.BaseModel(
        name="smol",
        context_length=8192,
        price={"prompt_pico_usd": 20_000, "completion_pico_usd": 60_000},
        lora_price={"prompt_pico_usd": 30_000, "completion_pico_usd": 90_000},
    )
    response = deployment_pb2.ListBaseModelsResponse(base_models=[base])
    gateway.on("ListBaseModels", [response], [response])
    out, _ = run("models")
    assert [part for part in out.splitlines()[1].split() if part.startswith("$")] == [
        "$0.02", "$0.06", "$0.03", "$0.09",
    ]  # fmt: skip
    out, _ = run("models --json")
    assert json.loads(out)[0]["lora_price"]["prompt_pico_usd"] == "30000"


def test_deploy_waits_and_says_on_stderr_what_happens(gateway: ScriptedGateway) -> None:
    gateway.on(
        "CreateDeployment",
        [
            deployment_pb2.CreateDeploymentResponse(
                deployment=deployed(deployment_pb2.Deployment.STATE_INITIALIZING)
            )
        ],
    )
    gateway.on(
        "WatchDeployment",
        watched(
            deployed(deployment_pb2.Deployment.STATE_DEPLOYING, status_message="a worker loads it"),
            deployed(deployment_pb2.Deployment.STATE_RUNNING),
        ),
    )
    command = "deploy pirate acme/pirate-lora --token-stdin --revision v1 --use-base-template"
    out, err = run(command, stdin="hf_secret\n")
    assert out == "acme/pirate\n"
    assert err.splitlines() == ["acme/pirate deploying: a worker loads it", "acme/pirate RUNNING"]
    request = gateway.calls[0].request
    assert (request.deployment_id, request.hub_token, request.revision) == ("pirate", "hf_secret", "v1")
    assert (request.use_base_template, request.accept_base_name) == (True, False)


def test_deploy_that_fails_says_why_in_one_line(gateway: ScriptedGateway) -> None:
    gateway.on(
        "CreateDeployment",
        [
            deployment_pb2.CreateDeploymentResponse(
                deployment=deployed(deployment_pb2.Deployment.STATE_INITIALIZING)
            )
        ],
    )
    failure = deployment_pb2.Failure(
        reason="HUB_REPO_GATED", message="acme/x is gated\n[bold]ask[/bold] for it"
    )
    gateway.on("WatchDeployment", watched(deployed(deployment_pb2.Deployment.STATE_FAILED, failure=failure)))
    out, err = run("deploy pirate acme/x", status=1)
    assert out == ""
    assert err.splitlines()[-1] == "error: acme/x is gated [bold]ask[/bold] for it (HUB_REPO_GATED)"


def test_a_token_that_is_asked_for_and_missing_is_wrong_usage(gateway: ScriptedGateway) -> None:
    _, err = run("deploy pirate acme/x --token-stdin", stdin="", status=2)
    assert "stdin holds no token" in err


def test_an_update_that_fails_while_the_old_version_serves_is_an_error(gateway: ScriptedGateway) -> None:
    gateway.on("GetAccount", [account_pb2.GetAccountResponse(account={"name": "acme"})])
    running = deployed(
        deployment_pb2.Deployment.STATE_RUNNING,
        failure=deployment_pb2.Failure(reason="R", message="rank is 128"),
    )
    gateway.on("UpdateDeployment", [deployment_pb2.UpdateDeploymentResponse(deployment=running)])
    gateway.on("WatchDeployment", watched(running))
    _, err = run("deployments update pirate --use-repo-template", status=1)
    assert "error: rank is 128 (R)" in err
    request = gateway.calls[1].request
    assert request.name == "acme/pirate"
    assert (request.HasField("use_base_template"), request.use_base_template) == (True, False)
    assert not request.HasField("accept_base_name")


def test_deployments_are_listed_and_shown(gateway: ScriptedGateway) -> None:
    one = deployed(
        deployment_pb2.Deployment.STATE_RUNNING,
        serving=deployment_pb2.AdapterVersion(
            hub_repo="acme/lora",
            commit="0123456789abcdef",
            rank=8,
            extras=deployment_pb2.RepoExtras(has_chat_template=True, end_token_ids=[2, 7]),
        ),
        has_hub_token=True,
    )
    gateway.on("ListDeployments", *[[deployment_pb2.ListDeploymentsResponse(deployments=[one])]] * 2)
    gateway.on("GetDeployment", [deployment_pb2.GetDeploymentResponse(deployment=one)])
    out, _ = run("deployments list")
    assert out.splitlines()[1].split()[:3] == ["acme/pirate", "RUNNING", "acme/lora"]
    assert json.loads(run("deployments list --json")[0])[0]["serving"]["rank"] == 8
    out, _ = run("deployments show acme/pirate")
    assert "0123456789abcdef" in out
    assert "stored" in out
    assert "the repository's" in out
    assert "2, 7" in out


def test_generate_writes_the_text_alone_to_stdout(gateway: ScriptedGateway) -> None:
    gateway.on("Generate", [chunk("Arr"), chunk("r!"), completion()])
    out, err = run("generate acme/pirate hello -n 5 -t 0 --stop A --stop B --stats")
    assert out == "Arrr!\n"
    assert err == "3 prompt + 2 completion tokens, $0.00000027, stop\n"
    request = gateway.calls[0].request
    assert request.text == "hello"
    assert (request.sampling.max_tokens, request.sampling.temperature) == (5, 0)
    assert list(request.sampling.stop) == ["A", "B"]
    assert not request.sampling.HasField("top_k")


def test_generate_takes_its_prompt_from_stdin_and_may_send_it_as_a_message(gateway: ScriptedGateway) -> None:
    gateway.on("Generate", *[[chunk("x"), completion()]] * 2)
    run("generate m", stdin="two\nlines")
    run("generate m - --system brief", stdin="hi")
    assert gateway.calls[0].request.text == "two\nlines"
    assert [(one.role, one.content[0].text) for one in gateway.calls[1].request.chat.messages] == [
        ("system", "brief"),
        ("user", "hi"),
    ]


def test_an_error_in_the_middle_keeps_the_text_and_ends_with_1(gateway: ScriptedGateway) -> None:
    gateway.on(
        "Generate",
        [
            chunk("half"),
            service_errors.UnavailableError("WORKER_LOST", "the worker is gone", retry_after=1.5),
        ],
    )
    out, err = run("generate m p", status=1)
    assert out == "half\n"
    assert err == "error: the worker is gone (WORKER_LOST); a retry may succeed after 1.5 s\n"


def test_chat_from_a_pipe_remembers_and_obeys(gateway: ScriptedGateway) -> None:
    gateway.on("Generate", *[[chunk(one), completion()] for one in ("first", "second", "third")])
    out, err = run("chat m --system s", stdin="a\n\nb\n/reset\nc\n/exit\nd\n")
    assert out == "first\nsecond\nthird\n"
    assert err == ""
    conversations = [[one.content[0].text for one in call.request.chat.messages] for call in gateway.calls]
    assert conversations == [["s", "a"], ["s", "a", "first", "b"], ["s", "c"]]


def test_usage_and_bill_show_money_exactly(gateway: ScriptedGateway) -> None:
    record = usage_pb2.UsageRecord(
        request_id="r-1",
        model="acme/pirate",
        prompt_tokens=3,
        total_pico_usd=270_000,
        outcome="OUTCOME_CANCELLED",
    )
    gateway.on("ListUsage", [account_pb2.ListUsageResponse(records=[record] * 3, next_page_token="2")])
    line = usage_pb2.BillLine(
        model="acme/pirate",
        kind="KIND_LORA",
        requests=1,
        price={"prompt_pico_usd": 30_000},
        total_pico_usd=270_000,
    )
    gateway.on("GetBill", [account_pb2.GetBillResponse(lines=[line], total_pico_usd=270_000)])
    out, _ = run("usage -n 3")
    assert len(out.splitlines()) == 4
    assert {"$0.00000027", "cancelled", "r-1"} <= set(out.splitlines()[1].split())
    assert gateway.calls[0].request.page_size == 3
    out, _ = run("bill")
    assert {"LoRA", "$0.03", "$0.00000027"} <= set(out.splitlines()[1].split())
    assert out.splitlines()[-1].split() == ["total", "$0.00000027"]


def test_a_new_key_is_the_only_thing_on_stdout(gateway: ScriptedGateway) -> None:
    gateway.on(
        "CreateKey",
        [account_pb2.CreateKeyResponse(key={"name": "k1", "account": "acme"}, secret="lmx_new")],
    )
    gateway.on("ListKeys", [account_pb2.ListKeysResponse(keys=[{"name": "k1", "prefix": "lmx_abcd"}])])
    gateway.on("RevokeKey", [account_pb2.RevokeKeyResponse(key={"name": "k1"})])
    assert run("keys create laptop")[0] == "lmx_new\n"
    assert "lmx_abcd..." in run("keys list")[0]
    run("keys revoke k1")
    assert [call.metadata["authorization"] for call in gateway.calls] == ["Bearer lmx_user"] * 3


def test_the_operators_commands_go_with_the_operators_key(gateway: ScriptedGateway) -> None:
    account = {"name": "acme", "balance": {"available_pico_usd": 5 * 10**12}}
    gateway.on("CreateAccount", [account_pb2.CreateAccountResponse(account=account)])
    gateway.on("CreateKey", [account_pb2.CreateKeyResponse(secret="lmx_first")])
    gateway.on("GrantCredit", [account_pb2.GrantCreditResponse(account=account)])
    gateway.on("GetAccount", *[[account_pb2.GetAccountResponse(account=account)]] * 2)
    assert run("account create acme --credit 5 --max-in-flight 2")[0] == "lmx_first\n"
    assert "$5.00" in run("account credit acme 2.50")[0]
    run("account show acme")
    run("account show")
    create, _, credit, *_ = [call.request for call in gateway.calls]
    assert (create.credit_pico_usd, create.limits.max_in_flight) == (5 * 10**12, 2)
    assert credit.amount_pico_usd == 25 * 10**11
    keys = [call.metadata["authorization"] for call in gateway.calls]
    assert keys == ["Bearer lmx_operator"] * 4 + ["Bearer lmx_user"]


def test_global_options_and_variables_choose_the_gateway(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.on("ListKeys", *[[account_pb2.ListKeysResponse()]] * 2)
    run(f"--target {gateway.target} --api-key lmx_option keys list")
    monkeypatch.setenv("LORAMUX_API_KEY", "lmx_variable")
    run("keys list")
    keys = [call.metadata["authorization"] for call in gateway.calls]
    assert keys == ["Bearer lmx_option", "Bearer lmx_variable"]


def test_nothing_running_says_what_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_HOME", str(tmp_path))
    monkeypatch.delenv("LORAMUX_TARGET", raising=False)
    for command in ("models", "account show acme"):
        _, err = run(command, status=1)
        assert len(err.splitlines()) == 1
        assert "loramux up" in err


def test_a_defect_is_one_line_too(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(profile, "load", broken)
    _, err = run("models", status=1)
    assert err.startswith("error: ZeroDivisionError: oh")


def test_up_refuses_what_it_cannot_start_with(tmp_path: Path) -> None:
    for options, words in (("--base llama", "base is 'llama'"), ("--credit lots", "amount in USD")):
        _, err = run(f"up --data-dir {tmp_path / 'data'} {options}", status=2)
        assert words in err
    assert not (tmp_path / "data").exists()


def test_hub_refuses_a_folder_that_is_not_there_or_not_in_order(tmp_path: Path) -> None:
    assert "is no folder" in run(f"hub {tmp_path / 'missing'}", status=2)[1]
    (tmp_path / "acme" / "x").mkdir(parents=True)
    (tmp_path / "acme" / "x.hub.toml").write_text("privat = true")
    assert "unknown key 'privat'" in run(f"hub {tmp_path}", status=2)[1]


def test_the_help_imports_no_grpc() -> None:
    code = (
        "import sys\n"
        "import loramux.cli.main\n"
        "print(sorted({'grpc', 'google.protobuf', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
