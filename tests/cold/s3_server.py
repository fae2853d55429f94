"""An S3 server of the tests' own: moto's, with its access control on, and failures on demand."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3  # type: ignore[import-untyped]
import httpx
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "records"
REGION = "eu-central-1"
_MAY = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "*"}


@dataclass
class Failing:
    """In front of moto: what goes wrong between a gateway and its storage."""

    inner: Callable[..., Iterable[bytes]]
    busy: int = 0
    """So many requests are answered 503."""
    slow: float = 0.0
    """Seconds that each waits."""
    cut: bool = False
    """Answers to GET end in the middle."""
    lose: int = 0
    """So many PUTs are done, and answered 500."""
    seen: list[str] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.seen.append(f"{method} {environ['PATH_INFO']}")
        time.sleep(self.slow)
        if self.busy > 0:
            self.busy -= 1
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if self.lose > 0 and method == "PUT":
            self.lose -= 1
            list(self.inner(environ, lambda *_: None))
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        answer = self.inner(environ, start)
        if self.cut and method == "GET":
            whole = b"".join(answer)
            return [whole[: len(whole) // 2]]
        return answer


@dataclass(frozen=True)
class S3:
    url: str
    failing: Failing
    environment: dict[str, str]
    """What a gateway is given to come in."""
    admin: Any
    """A client that may do everything."""


@contextmanager
def an_s3_server() -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    failing = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, failing, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        root = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        keys = _user(boto3.client("iam", endpoint_url=url, region_name=REGION, **root), _MAY)
        everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        iam = boto3.client("iam", endpoint_url=url, region_name=REGION, **root)
        admin_keys = _user(iam, everything, "admin")
        admin = boto3.client("s3", endpoint_url=url, region_name=REGION, **admin_keys)
        admin.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        _check_who_asks(url)
        environment = {
            "AWS_ACCESS_KEY_ID": keys["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": keys["aws_secret_access_key"],
            "AWS_REGION": REGION,
        }
        yield S3(url, failing, environment, admin)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _user(iam: Any, may: dict[str, Any], name: str = "gateway") -> dict[str, str]:
    iam.create_user(UserName=name)
    document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=document)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        "aws_access_key_id": key["AccessKeyId"],
        "aws_secret_access_key": key["SecretAccessKey"],
    }


def _check_who_asks(url: str) -> None:
    """From now on moto checks signatures and policies, as S3 does."""
    httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()
