"""Protocol x clips x metrics -> scores."""
