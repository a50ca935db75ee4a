"""Systems side by side: plan, cells, costs, tables."""
