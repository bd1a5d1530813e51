"""Datasets: where their rows are, what shape they have, and which of them are trained on."""
