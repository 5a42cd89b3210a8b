"""A run's cells on a Ray cluster: `schedule` decides, `worker` answers, `driver` talks to Ray and writes the store."""
