"""Ray: sessions, resources, the engine that feeds actors, the guard around each worker, jobs and metrics."""
