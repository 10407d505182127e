"""Where and how work runs: storage, resources, the Ray session, job submission, the run directory."""
