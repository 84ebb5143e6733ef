"""JSON log lines on stdout, with the request's id and account, and never a secret."""

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_NAMES = frozenset(
    {
        "authorization",
        "hub_token",
        "gateway_secret",
        "worker_secret",
        "dispatch_secret",
        "key",
        "secret",
        "token",
    }
)
_SECRET_TEXT = re.compile(r"\b(lmx_|hf_)[A-Za-z0-9_-]{8,}|(?i:bearer)\s+[^\s'\"]+")


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what looks like a key or a token, whatever field or traceback it stands in."""
    for name, value in event.items():
        if name in _SECRET_NAMES:
            event[name] = "[redacted]"
        elif isinstance(value, str):
            event[name] = _SECRET_TEXT.sub("[redacted]", value)
    return event


def configure(service: str, level: str) -> None:
    """Send structlog's and the standard library's records through one JSON pipeline."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("event"),
                structlog.processors.JSONRenderer(),
            ],
        ),
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("alembic", "aiosqlite", "httpx", "httpx2", "httpcore", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events carry what the request bound: request_id, account."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
