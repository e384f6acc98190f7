"""Authentication with Keystone: validating tokens and looking up projects. Source: OpenStack's Identity API v3."""
