"""What ``cluster check`` measures of a bucket and of an MLflow server, by themselves."""

import os

import pytest
import s3fs

from cluster.check.contract import Unmeasured, measured_here
from cluster.check.storage import trial
from cluster.check.tracking import IMPATIENCE, MLFLOW
from cluster.config import CheckSettings
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

NO_BUCKET = ": the bucket does not exist"


def test_a_bucket_is_left_as_it_was_and_one_that_cannot_be_used_is_named(s3_server, monkeypatch: pytest.MonkeyPatch):
    folder = Folder(s3_server.prefix("check"))
    folder.write_bytes("kept", b"x")
    settings = CheckSettings(storage=folder.uri, storage_test_megabytes=1)
    with trial(settings) as begun:
        assert begun.check.measure(settings).written > 0
        assert len(folder.files()) == 2
    assert folder.files() == ["kept"]

    with trial(CheckSettings(storage="s3://misspelt/runs")) as begun:
        assert measured_here(begun.check, settings) == Unmeasured("s3://misspelt/runs/" + begun.name + NO_BUCKET)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with trial(settings) as begun:
        assert "access denied" in measured_here(begun.check, settings).reason
    # connections keep the credentials that they were made with
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_mlflow_server_that_wants_another_password_is_named(mlflow_server, monkeypatch: pytest.MonkeyPatch):
    # which the measurement changes, and the other tests are to have as they were
    for name in IMPATIENCE:
        monkeypatch.setenv(name, "1")
    assert MLFLOW.measure(CheckSettings()) == os.environ["MLFLOW_TRACKING_URI"]

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(UserError, match=r"wants MLFLOW_TRACKING_USERNAME and .* \(answers 401\)"):
        MLFLOW.measure(CheckSettings())
