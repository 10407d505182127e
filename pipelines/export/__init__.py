"""Writers of a run's masks, one file for each family of formats; `vrshq.pipelines.export.run` chooses among them."""

from vrshq.errors import UserError


class ExportError(UserError, ValueError):
    """The export cannot start; one line that says why."""
