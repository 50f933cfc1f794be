"""The import path of applications, `raymlops.serving.app:build_app`, as serving files and histories have it."""

from raymlops.serving.replica.app import build_app

__all__ = ["build_app"]
