"""The figures of a server in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "kerasllm_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "kerasllm_request_seconds",
            "Seconds until a response is complete.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "kerasllm_first_token_seconds",
            "Seconds from a request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter("kerasllm_generated_tokens", "New tokens.", registry=registry)
        self._open = Gauge("kerasllm_open_requests", "Requests that are being answered.", registry=registry)

    def watch(self, name: str, model: str, documentation: str, value: Callable[[], float]) -> None:
        """Adds a figure that is read when it is asked for.

        Args:
            name: its name, behind `kerasllm_`.
            model: the name of the model that it belongs to.
            documentation: what it is.
            value: what returns it.
        """
        known = getattr(self, f"_{name}", None)
        if known is None:
            known = Gauge(f"kerasllm_{name}", documentation, ["model"], registry=self._registry)
            setattr(self, f"_{name}", known)
        known.labels(model).set_function(value)

    def opened(self) -> None:
        """Counts a request that begins."""
        self._open.inc()

    def closed(self, path: str, status: int, seconds: float) -> None:
        """Counts a request that has ended.

        Args:
            path: the path of its route, "other" for none.
            status: the HTTP status.
            seconds: the time that it took.
        """
        self._open.dec()
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_first_token(self, seconds: float) -> None:
        """Counts the time to a first token."""
        self._first_token.observe(seconds)

    def count_tokens(self, number: int) -> None:
        """Counts new tokens."""
        self._tokens.inc(number)

    def text(self) -> bytes:
        """Returns all figures in Prometheus' text format."""
        return generate_latest(self._registry)
