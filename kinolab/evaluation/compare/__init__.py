"""The comparison of systems: plan, cells, measurement, tables."""
