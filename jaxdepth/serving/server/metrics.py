"""What the server counts and times, for Prometheus: nothing that a user or a model wrote."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jaxdepth.serving.responder import Response

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "jaxdepth_requests", "Requests for completions", ["status"], registry=registry
        )
        self.given_up = Counter(
            "jaxdepth_given_up", "Requests whose client went away", registry=registry
        )
        self.verdicts = Counter(
            "jaxdepth_verdicts", "Finished responses", ["verdict"], registry=registry
        )
        self.tokens = Counter(
            "jaxdepth_tokens", "Tokens of finished responses", ["kind"], registry=registry
        )
        self.waiting = Gauge("jaxdepth_waiting", "Requests that wait for a lane", registry=registry)
        self.lanes_busy = Gauge("jaxdepth_lanes_busy", "Lanes that decode", registry=registry)
        self.lanes = Gauge("jaxdepth_lanes", "Lanes that there are", registry=registry)
        self.batches = Counter("jaxdepth_batches", "Batches of chats", registry=registry)
        self.to_verdict = Histogram(
            "jaxdepth_seconds_to_verdict",
            "From when a request is queued to its verdict",
            registry=registry,
            buckets=_SECONDS,
        )
        self.to_finish = Histogram(
            "jaxdepth_seconds_to_finish",
            "From when a request is queued to the end of its answer",
            registry=registry,
            buckets=_SECONDS,
        )

    def finish(self, response: Response) -> None:
        """Count a finished response."""
        self.verdicts.labels(str(response.verdict)).inc()
        self.tokens.labels("prompt").inc(response.prompt_tokens)
        self.tokens.labels("hidden").inc(response.hidden_tokens)
        self.tokens.labels("visible").inc(response.visible_tokens)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
