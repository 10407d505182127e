"""Writers of a run's masks, one file for each family of formats; `vrshq.pipelines.export.run` chooses among them."""


class ExportError(ValueError):
    """The export cannot start; one line that says why."""
