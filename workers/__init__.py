"""What runs beside the API: consumers of the queue, and the scheduler that feeds it again."""
