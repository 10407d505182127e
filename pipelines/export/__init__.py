"""Writers of masks, one file for each family of formats; `vrshq.pipelines.export.run` chooses among them."""
