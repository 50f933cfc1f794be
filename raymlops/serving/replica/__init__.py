"""The Ray Serve deployments: the application, separate nodes of graphs, and the actors that replicas share."""
