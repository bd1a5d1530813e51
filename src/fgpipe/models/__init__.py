"""Base models and their tokenizers."""
