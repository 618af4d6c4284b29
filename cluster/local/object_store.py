"""SeaweedFS as the embedded S3 service."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import s3fs
from botocore.exceptions import BotoCoreError, ClientError

from cluster.local.certificates import self_signed_certificate
from cluster.local.service import ANSWER_SECONDS, BUCKET, LOOPBACK, Place, own_environment, program
from cluster.local.state import Credentials, StateFolder

_CERTIFICATE = "tls.crt"
_KEY = "tls.key"


class ObjectStore:
    """SeaweedFS: master, volume server, filer and S3 gateway in one process.

    Clients reach the gateway alone. The ports behind it want a certificate that only this folder has.
    """

    name = folder = "s3"
    ports: Mapping[str, int | None] = {
        "s3": 8333,
        "s3_grpc": None,
        "s3_master": None,
        "s3_master_grpc": None,
        "s3_volume": None,
        "s3_volume_grpc": None,
        "s3_filer": None,
        "s3_filer_grpc": None,
    }

    def prepare(self, place: Place) -> list[str]:
        home = place.folder.path / self.name
        (home / "data").mkdir(mode=0o700, exist_ok=True)
        if not (home / _KEY).exists():
            certificate, key = self_signed_certificate(LOOPBACK)
            place.folder.write_private(f"{self.name}/{_CERTIFICATE}", certificate)
            place.folder.write_private(f"{self.name}/{_KEY}", key)
        place.folder.write_private(f"{self.name}/identities.json", json.dumps(_identities(place.credentials)))
        place.folder.write_private(f"{self.name}/security.toml", _security(place.credentials))
        port = place.ports
        # paths are below its working directory: it would split one with a comma
        return [
            program("weed"),
            "-logdir=.",
            "-logtostderr=true",
            "server",
            "-dir=data",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-master.telemetry=false",
            # the only master still waits this long for others before it elects itself
            "-master.electionTimeout=1s",
            f"-master.port={port['s3_master']}",
            f"-master.port.grpc={port['s3_master_grpc']}",
            # every bucket takes volumes of its own; they are not allocated in advance
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=200",
            "-volume.preStopSeconds=0",
            f"-volume.port={port['s3_volume']}",
            f"-volume.port.grpc={port['s3_volume_grpc']}",
            "-filer",
            f"-filer.port={port['s3_filer']}",
            f"-filer.port.grpc={port['s3_filer_grpc']}",
            "-s3",
            f"-s3.port={port['s3']}",
            f"-s3.port.grpc={port['s3_grpc']}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.config=identities.json",
            "-s3.iam=false",
            # a misspelt bucket is an error here, as it is in the cloud
            "-s3.autoCreateBucket=false",
        ]

    def environment(self, place: Place) -> dict[str, str]:
        # AWS_* in the environment would be a second identity of the gateway, WEED_* is stronger than the files
        return {name: value for name, value in own_environment().items() if not name.startswith(("AWS_", "WEED_"))}

    def answers(self, place: Place) -> bool:
        """Whether an object can be written; the bucket is made on the way."""
        client = s3fs.S3FileSystem(
            **storage_options(place),
            config_kwargs={
                "connect_timeout": ANSWER_SECONDS,
                "read_timeout": ANSWER_SECONDS,
                "retries": {"max_attempts": 0},
            },
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        try:
            if not client.exists(BUCKET):
                client.mkdir(BUCKET)
            client.pipe_file(f"{BUCKET}/.answers", b"")
        except (OSError, ClientError, BotoCoreError):
            return False
        return True

    def clean(self, folder: StateFolder, ports: Mapping[str, int]) -> None:
        # SeaweedFS puts sockets into /tmp, whatever it is told, and leaves them when it is ended
        for name in self.ports.keys() & ports.keys():
            for path in Path("/tmp").glob(f"seaweedfs-*-{ports[name]}.sock"):  # noqa: S108
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.getuid():
                        path.unlink()


def storage_options(place: Place) -> dict[str, str]:
    """Arguments of s3fs for the embedded object store."""
    return {
        "key": place.credentials.s3_access_key,
        "secret": place.credentials.s3_secret_key,
        "endpoint_url": place.address("s3"),
    }


def _identities(credentials: Credentials) -> dict[str, object]:
    return {
        "identities": [
            {
                "name": "bulkformer",
                "credentials": [{"accessKey": credentials.s3_access_key, "secretKey": credentials.s3_secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }


def _security(credentials: Credentials) -> str:
    """SeaweedFS's security.toml: behind the gateway, which checks S3 signatures, nobody but itself is let in.

    Master, volume server and filer speak HTTP and gRPC with whoever shows the certificate; requests for data also
    carry tokens.
    """
    signing = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    identity = f'cert = "{_CERTIFICATE}"\nkey = "{_KEY}"\n'
    authority = f'ca = "{_CERTIFICATE}"\n'
    return "".join(
        (
            *(f'[{section}]\nkey = "{credentials.s3_internal_key}"\n' for section in signing),
            f"[grpc]\n{authority}",
            *(f"[grpc.{part}]\n{identity}" for part in ("master", "volume", "filer", "s3", "client")),
            *(f"[https.{part}]\n{identity}{authority}" for part in ("master", "volume", "filer")),
            f"[https.client]\nenabled = true\n{identity}{authority}",
        )
    )
