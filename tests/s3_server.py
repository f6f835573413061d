"""A real S3 server on loopback (moto's), which checks access keys, counts requests and can be stopped in the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

ACCESS_KEY, SECRET_KEY = "an-access-key", "a-secret-key"
_REFUSAL = (
    b'<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code>'
    b"<Message>The access key does not exist in our records.</Message></Error>"
)


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object, **__: object) -> None:
        pass


class S3Server:
    """Keeps what it holds when it is stopped, and comes back at the same address."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        """`METHOD /bucket/path` of every request that came in."""
        self.on_request: Callable[[str], object] = lambda request: None
        """Called with each; what it raises cuts the connection."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None
        self._port = 0
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know. It tries once: a server that is down is not waited for."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=_Quiet)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.requests.append(request)
        self.on_request(request)
        if f"Credential={ACCESS_KEY}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            body = b"" if request.startswith("HEAD") else _REFUSAL
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response("403 Forbidden", headers)
            return [body]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


class Bucket:
    """One bucket, seen past the code that is tested."""

    def __init__(self, server: S3Server, name: str) -> None:
        self.server, self.name = server, name
        self.uri = f"s3://{name}"
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=server.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        self._client.create_bucket(Bucket=name)

    def put(self, path: str, content: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=path, Body=content)

    def get(self, path: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=self.name, Key=path)["Body"].read()
        return content

    def delete(self) -> None:
        """The bucket itself, with all it holds."""
        for path in self.paths():
            self._client.delete_object(Bucket=self.name, Key=path)
        self._client.delete_bucket(Bucket=self.name)

    def paths(self, prefix: str = "") -> list[str]:
        """Of every file, sorted."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sorted(about["Key"] for page in pages for about in page.get("Contents", ()))


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()
