"""The vLLM server: its command, its process, and what it is answering with right now."""

from __future__ import annotations

from fgpipe.serving.command import installed_build, plugin_installed, serve_command, server_environment
from fgpipe.serving.foreground import serve
from fgpipe.serving.process import VllmServer

__all__ = ["VllmServer", "installed_build", "plugin_installed", "serve", "serve_command", "server_environment"]
