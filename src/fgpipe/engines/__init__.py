"""What generates text: one protocol, one engine over transformers, one over a running server."""
