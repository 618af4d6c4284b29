"""What another user of the machine can do with the object store and MLflow: nothing. See SECURITY.md."""

import subprocess
from pathlib import Path

import grpc
import mlflow
import pytest
import s3fs
from stranger import grpc_call, http_request, needs_root, outcomes, run_as_stranger

from cluster.local.service import program
from cluster.local.state import StateFolder

pytestmark = needs_root

MASTER, VOLUME, FILER = "/master_pb.Seaweed/", "/volume_server_pb.VolumeServer/", "/filer_pb.SeaweedFiler/"
# calls that take an empty message and that a server without certificates carries out or answers
INNER_CALLS = (
    ("s3_master_grpc", f"{MASTER}Statistics"),
    ("s3_master_grpc", f"{MASTER}CollectionList"),
    ("s3_master_grpc", f"{MASTER}CollectionDelete"),
    ("s3_volume_grpc", f"{VOLUME}DeleteCollection"),
    ("s3_volume_grpc", f"{VOLUME}VolumeServerStatus"),
    ("s3_filer_grpc", f"{FILER}GetFilerConfiguration"),
    ("s3_filer_grpc", f"{FILER}DeleteEntry"),
    ("s3_grpc", "/messaging_pb.SeaweedS3/Configure"),
)
INNER_REQUESTS = (
    ("s3_master", "GET", "/dir/status"),
    ("s3_master", "GET", "/dir/assign"),
    ("s3_master", "GET", "/vol/grow?count=1"),
    ("s3_master", "GET", "/col/delete?collection=bulkformer"),
    ("s3_volume", "GET", "/status"),
    ("s3_volume", "DELETE", "/1,01637037d6"),
    ("s3_filer", "GET", "/buckets/bulkformer/"),
    ("s3_filer", "POST", "/buckets/bulkformer/planted"),
    ("s3_filer", "DELETE", "/buckets/bulkformer?recursive=true"),
)


@pytest.fixture(scope="module")
def ports(s3_server) -> dict[str, int]:
    return StateFolder.at(s3_server.state).read().ports


@pytest.fixture
def treasure(s3_server):
    """An object that has to be there still when the test ends."""
    client, name = s3fs.S3FileSystem(use_listings_cache=False), f"{s3_server.bucket}/treasure"
    client.pipe_file(name, b"gold")
    yield name
    assert client.cat_file(name) == b"gold"


@pytest.mark.parametrize("tls", [False, True])
def test_no_inner_grpc_port_of_the_object_store_answers(ports, treasure, tls: bool):
    refusals = outcomes([grpc_call(ports[port], method, tls) for port, method in INNER_CALLS])

    assert all(refusal.startswith("UNAVAILABLE") for refusal in refusals), refusals


def test_those_ports_answer_the_owner_of_the_certificate(s3_server, ports):
    certificate = (s3_server.state / "s3" / "tls.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(
        certificate, (s3_server.state / "s3" / "tls.key").read_bytes(), certificate
    )
    with grpc.secure_channel(f"127.0.0.1:{ports['s3_filer_grpc']}", credentials) as channel:
        assert channel.unary_unary(f"{FILER}GetFilerConfiguration")(b"", timeout=10)


@pytest.mark.parametrize("tls", [False, True])
def test_no_inner_http_port_of_the_object_store_answers(ports, treasure, tls: bool):
    refusals = outcomes([http_request(ports[port], method, path, tls) for port, method, path in INNER_REQUESTS])

    # over plain HTTP the answer is that it is none
    expected = "Error" if tls else "400 Client sent an HTTP request to an HTTPS server"
    assert all(expected in refusal or refusal == "disconnected" for refusal in refusals), refusals


def test_the_shell_of_the_object_store_neither_lists_nor_deletes_for_others(s3_server, ports, treasure):
    listing = "fs.ls /buckets/bulkformer\n"
    commands = f"{listing}fs.rm /buckets/bulkformer/treasure\ncollection.delete -collection bulkformer -force\n"
    arguments = ["shell", f"-master=127.0.0.1:{ports['s3_master']}.{ports['s3_master_grpc']}",
                 f"-filer=127.0.0.1:{ports['s3_filer']}.{ports['s3_filer_grpc']}"]  # fmt: skip

    output = run_as_stranger(program("weed"), arguments, commands, seconds=8)
    # where its certificate is
    own = subprocess.run(
        [program("weed"), *arguments],
        input=listing,
        cwd=s3_server.state / "s3",
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "treasure" not in output
    assert "treasure" in own.stdout


def test_the_gateway_wants_a_signature(ports, treasure):
    attempts = (
        ("GET", "/"),
        ("GET", "/bulkformer"),
        ("GET", "/bulkformer/treasure"),
        ("PUT", "/bulkformer/treasure"),
        ("DELETE", "/bulkformer/treasure"),
        ("DELETE", "/bulkformer"),
        ("POST", "/?Action=CreateUser"),
    )

    refusals = outcomes([http_request(ports["s3"], method, path) for method, path in attempts])

    assert all(refusal.startswith(("403", "405", "501")) for refusal in refusals), refusals


def test_nobody_else_can_open_the_sockets_that_the_object_store_leaves_in_tmp(ports):
    sockets = [path for port in ports.values() for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]

    assert sockets
    assert not [path for path in sockets if path.stat().st_mode & 0o077]


def test_mlflow_wants_the_password_for_everything(mlflow_server):
    port = StateFolder.at(mlflow_server.state).read().ports["mlflow"]
    with mlflow.start_run() as run:
        mlflow.log_text("weights", "model.txt")
    artifact = f"/api/2.0/mlflow-artifacts/artifacts/{run.info.experiment_id}/{run.info.run_id}/artifacts/model.txt"
    attempts = [("GET", "/"), ("GET", "/health"), ("GET", "/version"), ("GET", "/static-files/index.html"),
                ("POST", "/api/2.0/mlflow/experiments/search"), ("POST", "/api/2.0/mlflow/runs/create"),
                ("POST", "/ajax-api/2.0/mlflow/runs/delete"), ("GET", "/graphql"), ("POST", "/v1/traces"),
                ("GET", artifact), ("PUT", artifact), ("DELETE", artifact)]  # fmt: skip

    for password in ("", "Basic Ym9keTpub3BlCg==", "Bearer x"):
        refusals = outcomes([http_request(port, *attempt, password=password) for attempt in attempts])
        assert all(refusal.startswith("401") for refusal in refusals), refusals

    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/model.txt") == "weights"


def test_no_command_line_shows_a_secret(mlflow_server):
    folder = StateFolder.at(mlflow_server.state)
    lines = [
        Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
        for process in folder.read().processes.values()
    ]
    assert lines
    assert not [line for line in lines if any(secret in line for secret in folder.credentials().secrets)]
