"""A finished model as an HTTP service: requests, batches, replicas on Ray Serve."""
