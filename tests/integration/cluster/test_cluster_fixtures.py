"""The services that the other packages' tests share."""

import os
from pathlib import Path

import mlflow
import pyarrow.fs
import ray
import s3fs


def test_objects_written_with_one_client_are_read_with_another(s3_server):
    prefix = s3_server.prefix().removeprefix("s3://")
    s3fs.S3FileSystem().pipe_file(f"{prefix}/x", b"abc")

    with pyarrow.fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"]).open_input_stream(
        f"{prefix}/x"
    ) as stream:
        assert stream.read() == b"abc"


def test_the_object_store_keeps_its_data_and_address_over_an_outage(s3_server):
    prefix, address = s3_server.prefix().removeprefix("s3://"), s3_server.address
    client = s3fs.S3FileSystem(use_listings_cache=False)
    client.pipe_file(f"{prefix}/x", b"abc" * 1_000_000)

    s3_server.stop()
    s3_server.start()

    assert s3_server.address == address
    assert client.cat_file(f"{prefix}/x") == b"abc" * 1_000_000


def test_mlflow_puts_artifacts_into_the_bucket(mlflow_server, tmp_path: Path):
    file = tmp_path / "model.txt"
    file.write_text("weights")

    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.5)
        mlflow.log_artifact(str(file))

    assert mlflow.get_run(run.info.run_id).data.metrics == {"loss": 1.5}
    names = s3fs.S3FileSystem(use_listings_cache=False).find("bulkformer/mlflow")
    assert any(name.endswith(f"{run.info.run_id}/artifacts/model.txt") for name in names)


def test_tasks_inherit_the_services_of_the_session(ray_session, mlflow_server):
    @ray.remote
    def variables() -> tuple[str, str]:
        return os.environ["AWS_ENDPOINT_URL"], os.environ["MLFLOW_TRACKING_URI"]

    assert ray.get(variables.remote()) == (os.environ["AWS_ENDPOINT_URL"], os.environ["MLFLOW_TRACKING_URI"])
