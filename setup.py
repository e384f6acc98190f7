"""What pyproject.toml cannot express: a plugin inside Twisted's own package, and files outside of any package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["barbtx", "barbtx.*", "workers", "workers.*"]), "twisted.plugins"],
    data_files=[
        ("etc/barbtx", ["config/barbtx.conf", "config/barbtx-api-paste.ini", "config/policy-hardened.yaml"]),
        ("lib/systemd/system", ["config/systemd/barbtx.service", "config/systemd/barbtx-worker.service"]),
    ],
)
