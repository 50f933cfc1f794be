"""The import path of applications, `raymlops.serving.app:build_app`, which serving files and histories contain."""

from raymlops.serving.replica.app import build_app

__all__ = ["build_app"]
