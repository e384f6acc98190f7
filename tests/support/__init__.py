"""What the tests stand on: private servers, running services, builders."""
