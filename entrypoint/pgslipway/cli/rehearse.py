"""`rehearse`: every migration applied to a database that is thrown away."""

from ..errors import BadConfiguration
from ..request import Request

NOT_IN_THE_IMAGE = "rehearse is not in the image; install it beside your files: pip install 'pgslipway[embedded]'"


async def rehearse(request: Request) -> str:
    """Apply everything to a throw-away Postgres. Raises BadConfiguration where there is none, and as `up` does."""
    try:
        from .rehearsal.course import rehearse as on_a_server  # the image has no such folder
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.rehearsal":
            raise
        raise BadConfiguration(NOT_IN_THE_IMAGE) from error
    return await on_a_server(request)
