"""Storage: folders in any store, fetching, the run directory, merged parts and the lease. Knows no Ray."""
