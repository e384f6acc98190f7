"""The task queue: it carries tasks from the API to the processes that run them."""
