"""The migrations, in the order of their numbers. Released migrations do not change."""
