"""``pyops breaker``: which sources are left alone for now, because they failed again and again."""

from collections.abc import Sequence

from pyops.circuit import Breaker, BreakerStatus
from pyops.config.project import Project
from pyops.errors import UsageError
from pyops.words import did_you_mean


def breaker_of(project: Project, source: str) -> Breaker:
    """The breaker of a configured source."""
    limits = project.config.sources[source].breaker
    return Breaker(project.state_directory / "breakers", source, limits.failures, limits.reset)


def breaker_status(project: Project, names: Sequence[str] = ()) -> list[BreakerStatus]:
    """Where the breakers of all sources stand, or of those named."""
    return [breaker_of(project, name).status() for name in _known(project, names)]


def breaker_reset(project: Project, names: Sequence[str] = ()) -> list[BreakerStatus]:
    """Closes the breakers of all sources, or of those named."""
    for name in _known(project, names):
        breaker_of(project, name).close()
    return breaker_status(project, names)


def _known(project: Project, names: Sequence[str]) -> Sequence[str]:
    sources = project.config.sources
    for name in names:
        if name not in sources:
            raise UsageError(f"there is no source {name!r}", hint=did_you_mean(name, sources) or ", ".join(sources))
    return names or list(sources)
