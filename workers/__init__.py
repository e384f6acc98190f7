"""The worker process: consumers of the task queue and of Keystone's notifications, and the services that run them."""
