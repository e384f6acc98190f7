"""The steps before the application, each a PasteDeploy filter around the next resource."""
