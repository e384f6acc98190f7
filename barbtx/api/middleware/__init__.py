"""The steps of the request pipeline: PasteDeploy filters, each of which wraps the next resource."""
