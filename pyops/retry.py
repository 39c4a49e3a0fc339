"""Trying again what failed at the source for a reason that may pass: backoff with jitter and a ceiling (tenacity)."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import tenacity

from pyops.errors import SourceError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """How often something is tried in all, and how many seconds there are between two attempts."""

    attempts: int = 4
    base_delay: float = 1.0
    max_delay: float = 60.0


ONCE = Policy(attempts=1)


def retrying(policy: Policy, what: str, sleep: Callable[[float], None] = time.sleep) -> tenacity.Retrying:
    """Calls again what raises a SourceError, after as long as that asks for, or with backoff; says so in the log."""
    first, most = policy.base_delay, policy.max_delay
    backoff = tenacity.wait_exponential_jitter(multiplier=first, max=most, jitter=first / 2)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked = error.retry_after if isinstance(error, SourceError) else None
        return backoff(state) if asked is None else min(asked, most)

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        attempt = f"attempt {state.attempt_number + 1} of {policy.attempts}"
        _log.info("%s: %s (%s, again in %.1f s)", what, error, attempt, state.upcoming_sleep)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(SourceError),
        wait=wait,
        stop=tenacity.stop_after_attempt(policy.attempts),
        before_sleep=tell,
        sleep=sleep,
        reraise=True,
    )
