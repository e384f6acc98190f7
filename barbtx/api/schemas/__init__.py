"""What request bodies must look like: one JSON Schema per resource, and the checks that no schema can express."""
