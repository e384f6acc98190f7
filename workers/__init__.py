"""The worker process: consumers of the task queue and of Keystone's notifications, and what runs them."""
