"""What orders set in motion: the tasks that workers run."""
