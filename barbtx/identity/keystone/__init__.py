"""Keystone: whom its tokens stand for. Source: OpenStack's Identity API v3."""
