"""An OpenTelemetry receiver on gRPC's own server, which keeps what it is sent and has moods."""

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from support.servers import Moody


THREADS = 4
METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def retry_info(seconds: int, nanos: int) -> bytes:
    """Return a google.rpc.Status that asks to be left alone for a while."""
    delay = duration_pb2.Duration(seconds=seconds, nanos=nanos).SerializeToString()
    info = any_pb2.Any(
        type_url="type.googleapis.com/google.rpc.RetryInfo",
        value=b"\x0a" + bytes([len(delay)]) + delay,
    ).SerializeToString()
    other = any_pb2.Any(type_url="type.googleapis.com/other", value=b"x").SerializeToString()
    return b"\x08\x0e\x12\x02no" + b"".join(
        b"\x1a" + bytes([len(each)]) + each for each in (other, info)
    )


@dataclass
class Receiver(Moody, grpc.GenericRpcHandler):
    """Answer every call with `status`; a status that is not OK keeps nothing."""

    tls: grpc.ServerCredentials | None = None
    options: Sequence[tuple[str, object]] = ()
    status: grpc.StatusCode = grpc.StatusCode.OK
    said: str = ""
    details: bytes = b""
    response: ExportMetricsServiceResponse = field(default_factory=ExportMetricsServiceResponse)
    requests: list[ExportMetricsServiceRequest] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    decide: Callable[[ExportMetricsServiceRequest], grpc.StatusCode] | None = None
    port: int = 0

    def __post_init__(self) -> None:
        self.speaking = threading.Event()
        self.speaking.set()

    @property
    def url(self) -> str:
        """Where the receiver is."""
        return f"http{'s' if self.tls else ''}://localhost:{self.port}"

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Know one method."""
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._export,
            ExportMetricsServiceRequest.FromString,
            ExportMetricsServiceResponse.SerializeToString,
        )

    async def start(self) -> None:
        """Listen, at the same port as before."""
        self._threads = ThreadPoolExecutor(THREADS)
        begun = threading.Barrier(THREADS + 1)  # so that none begins later, and is counted then
        for _ in range(THREADS):
            self._threads.submit(begun.wait)
        begun.wait()
        options = [("grpc.so_reuseport", 0), *self.options]
        self._server = grpc.server(self._threads, [self], options=options)
        place = f"localhost:{self.port}"
        if self.tls:
            self.port = self._server.add_secure_port(place, self.tls)
        else:
            self.port = self._server.add_insecure_port(place)
        self._server.start()

    async def stop(self) -> None:
        """Cut all connections and listen no more."""
        self.speaking.set()
        self._server.stop(0).wait()
        self._threads.shutdown()

    def _export(
        self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> ExportMetricsServiceResponse:
        self.speaking.wait()
        status = self.decide(request) if self.decide else self.status
        if status is not grpc.StatusCode.OK:
            if self.details:
                context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
            context.abort(status, self.said)
        self.requests.append(request)
        self.peers.append(context.peer())
        self.metadata.append(dict(context.invocation_metadata()))
        return self.response

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Answer that the request is bad."""
        self.status = grpc.StatusCode.INVALID_ARGUMENT
        try:
            yield
        finally:
            self.status = grpc.StatusCode.OK

    async def count(self) -> int:
        """Return how many requests were accepted."""
        return len(self.requests)


@asynccontextmanager
async def receiving(
    tls: grpc.ServerCredentials | None = None, options: Sequence[tuple[str, object]] = ()
) -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver(tls, options)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


def credentials(files: tuple[Path, Path], client: Path | None = None) -> grpc.ServerCredentials:
    """Return what a server shows, and whom it lets in if not everybody."""
    certificate, key = (each.read_bytes() for each in files)
    authority = client.read_bytes() if client else None
    return grpc.ssl_server_credentials(
        [(key, certificate)], authority, require_client_auth=client is not None
    )
